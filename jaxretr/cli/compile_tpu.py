"""Compile a run for a TPU slice, without a TPU, to learn whether it fits and how fast it could be.

    jaxretr compile-tpu --config hybrid_xlmr_base --topology v5e:4x4
    jaxretr compile-tpu --config hybrid_xlmr_base --topology v5e:16x16 --batch auto

Prints memory, arithmetic, traffic and a roofline bound of the train step, of encoding, and of a gradient attack in
float32 and in bfloat16; --programs selects among these four, and --json writes all figures. Single settings are
overridden as in scripts/train.py. A step of XLM-R base takes minutes to compile. docs/tpu.md explains the figures.
"""

import json
import os
import sys

from absl import app, flags, logging

from jaxretr.cli import train  # the import also defines the flag --config
from jaxretr.files import as_path, replaced_file

_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice, such as v5e:4x4 or v4:4x4x4.", required=True)
_PROGRAMS = flags.DEFINE_list("programs", ["train", "encode", "attack", "attack_bfloat16"], "Programs to compile.")
_BATCH = flags.DEFINE_enum("batch", "config", ["config", "auto"], "auto searches for the largest batch that fits.")
_JSON = flags.DEFINE_string("json", "", "File to write all figures to.")


def main() -> None:
    app.run(_compile, flags_parser=_parse_flags)


def _parse_flags(arguments: list[str]) -> list[str]:
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        sys.exit()
    return train.parse_flags(arguments)


def _compile(_: list[str]) -> None:
    # Also on a TPU VM: nothing runs on the chips, and another process may hold them.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxretr.tpu_estimate.check import check
    from jaxretr.tpu_estimate.chips import Slice
    from jaxretr.tpu_estimate.measure import ASSUMPTIONS
    from jaxretr.tpu_estimate.report import markdown, text
    from jaxretr.tracking import errors_as_lines, say

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
                    "These figures are bounds, not measurements. They assume that",
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
