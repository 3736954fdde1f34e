r"""Attack a retriever and measure how well it still retrieves.

    jaxretr attack --model runs/hybrid/model --dataset xquad-r --data_dir xquad-r --candidates paragraph \
      --languages en,de,zh,ar --max_queries 24 --attack pgd --rho 0.1 --output_dir out/attack-hybrid
    jaxretr attack ... --attack suite

Prints clean and attacked measures per language and writes the adversarial inputs, results.json, curves and
report.html. The same command resumes an interrupted run. docs/robustness.md describes each attack, and
jaxretr/attack/options.py each option.
"""

import argparse
import dataclasses

from jaxretr.cli.evaluation_flags import (
    flags,
    listed,
    load,
    load_encoder,
    model_name,
    pool_identity,
    settings_of_pool,
    system_name,
)
from jaxretr.files import AnyPath, model_flag, path_flag


def main() -> None:
    args = attack_flags().parse_args()
    from jaxretr import parallel
    from jaxretr.attack.options import AttackOptions
    from jaxretr.attack.report.tables import summary
    from jaxretr.attack.run import attack_into
    from jaxretr.attack.surrogate import Surrogate
    from jaxretr.tracking import console, errors_as_lines

    fields = [field.name for field in dataclasses.fields(AttackOptions)]
    with errors_as_lines("the same command resumes after the last complete attack"):
        parallel.initialize()
        args.poison_text = read_text(args.poison_text) if args.poison_text else ""
        options = AttackOptions(**{name: value for name, value in vars(args).items() if name in fields})
        settings = settings_of_pool(args.pool, [args.setting] if args.setting else [])
        collection, encoder = load(args)
        surrogate = None
        if args.surrogate:
            surrogate = Surrogate(model_name(args.surrogate), load_encoder(args.surrogate, args))
        results = attack_into(
            args.output_dir,
            encoder,
            collection,
            options,
            setting=settings[0] if settings else "multi" if len(collection.languages) > 1 else "mono",
            system=system_name(args),
            run_settings={"model": args.model, "max_length": encoder.max_length, **pool_identity(args)},
            measures=args.measures,
            checks=args.checks,
            surrogate=surrogate,
        )
        console.print(summary(results), f"{args.output_dir}/report.html")


def attack_flags() -> argparse.ArgumentParser:
    parser = flags(__doc__, ("AP", "nDCG@10", "RR", "R@1", "R@10"))
    add = parser.add_argument
    add(
        "--attack",
        dest="attacks",
        type=listed,
        default=("pgd",),
        help="suite, or a comma-separated list of attacks, such as pgd,typos,hotflip; an unknown name lists all",
    )
    add(
        "--surrogate",
        type=model_flag,
        help="model that adversarial inputs are optimized on before they are measured on --model (default: --model)",
    )
    add("--target", dest="aim", default="query", help="aim of gradient attacks: query, demote, promote or language")
    add("--rho", type=numbers, default=(), help="budgets of gradient attacks, such as 0.03,0.1 (default: 0.1)")
    add(
        "--setting",
        choices=["mono", "cross", "multi"],
        help="setting of the tasks (default: multi, or mono for one language)",
    )
    add(
        "--norm",
        default="token_l2",
        help="norm of gradient attacks: token_l2, linf, frobenius (default: %(default)s)",
    )
    add("--layer", default="word", help="layer that gradient attacks perturb: word or post_ln (default: %(default)s)")
    add("--loss", default="margin", help="loss of gradient attacks on queries (default: %(default)s)")
    add("--steps", type=int, default=30, help="steps of gradient attacks (default: %(default)s)")
    add(
        "--restarts",
        type=int,
        default=1,
        help="runs of a gradient attack from different starting points (default: %(default)s)",
    )
    add(
        "--gradient_dtype",
        default="float32",
        help="compute dtype of gradients: float32, or bfloat16, where the best points are verified in float32 "
        "(default: %(default)s)",
    )
    add(
        "--counting",
        default="passages",
        choices=["passages", "answers"],
        help="what the top 10 counts: passages, or distinct answers, in which parallel passages are one "
        "(default: %(default)s)",
    )
    add(
        "--pairs",
        default="all",
        choices=["all", "drawn"],
        help="in the setting cross, attack all pairs of languages, or each query in one pair drawn by --seed "
        "(default: %(default)s)",
    )
    add("--calibrate", action="store_true", help="subtract the mean embedding of each language from its passages")
    add("--edits", type=int, default=1, help="text attacks make 1 to this many edits per query (default: %(default)s)")
    add("--search", default="beam", help="search of text attacks: random, worst_of_k, greedy, beam (default: beam)")
    add("--texts", type=int, default=64, help="texts scored per query and edit in text attacks (default: %(default)s)")
    add("--passages", type=int, default=1, help="poisoned passages per language (default: %(default)s)")
    add("--slots", type=int, default=50, help="tokens per poisoned passage (default: %(default)s)")
    add(
        "--poison_text",
        type=path_flag,
        default=None,
        help="file with a text that every poisoned passage starts with; only the trigger after the text is optimized",
    )
    add(
        "--trigger_slots", type=int, default=50, help="tokens of the trigger after --poison_text (default: %(default)s)"
    )
    add(
        "--poison_passes",
        type=int,
        help="forward passes per poisoned passage (default: 500 iterations; 100 for gaslite and in the suite)",
    )
    add(
        "--checks",
        type=int,
        default=0,
        help="number of queries for the checks of gradient attacks; 0 skips the checks (default: %(default)s)",
    )
    return parser


def read_text(path: AnyPath) -> str:
    """Return the text in a file, without blanks at its ends."""
    try:
        text = path.read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    if not text:
        raise ValueError(f"{path} is empty; expected the text that every poisoned passage starts with")
    return text


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in listed(text))
