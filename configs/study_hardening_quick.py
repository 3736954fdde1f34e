"""A small part of configs/study_hardening.py, for about an hour on two cores:

    uv run scripts/study.py --config configs/study_hardening_quick.py --output_dir runs/hardening-quick

FGM at two radii, one seed, 30 updates of 16 pairs. Such short trainings show the direction of effects, not their size.
"""

import dataclasses

from jaxretr.configs import study_hardening
from jaxretr.configs.study_hardening import arms, grid
from jaxretr.study.design import Study


def get_study() -> Study:
    full = study_hardening.get_study()
    chosen = {name: full.arms[name] for name in ("hybrid", *arms(grid("fgm", rho=(0.03, 0.01))), "untrained")}
    (section, attacks) = next(iter(full.attacks.items()))
    return dataclasses.replace(
        full,
        base=dataclasses.replace(
            full.base,
            train=dataclasses.replace(full.base.train, steps=30, batch_size=16, warmup_steps=5),
            checkpoint_every_steps=15,
        ),
        arms={name: dataclasses.replace(arm, seeds=arm.seeds[:1]) for name, arm in chosen.items()},
        max_length=64,
        attacks={
            section: dataclasses.replace(
                attacks,
                questions=24,
                languages=("en", "de", "es"),
                options=dataclasses.replace(attacks.options, steps=10),
            )
        },
    )
