"""Compile a run for a TPU slice, without a TPU, to learn whether it fits and how fast it could be.

    uv run --extra tpu scripts/compile_tpu.py --config configs/hybrid_xlmr_base.py --topology v5e:4x4
    uv run --extra tpu scripts/compile_tpu.py --config configs/hybrid_xlmr_base.py --topology v5e:16x16 --batch auto

Prints memory, arithmetic, traffic and a roofline bound of the train step, of encoding and of a gradient attack;
--programs selects among these three, and --json writes all figures. Single settings are overridden as in
scripts/train.py. A step of XLM-R base takes minutes to compile. docs/tpu.md explains the figures.
"""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"  # also on a TPU VM: nothing runs on the chips, and another process may hold them

from absl import app, flags, logging
from train import parse_flags  # the import also defines the flag --config

from jaxretr.files import as_path, replaced_file
from jaxretr.tpu_estimate.check import PROGRAMS, check
from jaxretr.tpu_estimate.chips import Slice
from jaxretr.tpu_estimate.measure import ASSUMPTIONS
from jaxretr.tpu_estimate.report import markdown, text
from jaxretr.tracking import errors_as_lines, say

_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, such as v5e:4x4 or v4:4x4x4.", required=True)
_PROGRAMS = flags.DEFINE_list("programs", list(PROGRAMS), "Programs to compile.")
_BATCH = flags.DEFINE_enum("batch", "config", ["config", "auto"], "auto searches for the largest batch that fits.")
_JSON = flags.DEFINE_string("json", "", "File to write all figures to.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    results = []
    with errors_as_lines():
        slice_ = Slice.parse(_TOPOLOGY.value)
        config = flags.FLAGS.config.validated()
        for measured in check(config, slice_, _PROGRAMS.value, auto=_BATCH.value == "auto"):
            say(text(measured))
            results.append(measured)
        say(markdown(config.model.model_name_or_path, results))
        say(
            "\n".join(
                [
                    "A bound, not a measurement. It assumes that",
                    *(f"- {assumed};" for assumed in ASSUMPTIONS),
                ]
            )
        )
        if _JSON.value:
            figures = {
                "config": config.to_dict(),
                "assumptions": ASSUMPTIONS,
                "results": [measured.to_dict() for measured in results],
            }
            with replaced_file(as_path(_JSON.value)) as partial:
                partial.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
