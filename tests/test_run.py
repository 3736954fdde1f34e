"""Whole runs on a tiny model: what they leave, and that stopping them anywhere changes nothing."""

import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from jaxretr import Encoder, run
from jaxretr.config import Config, HardeningConfig
from jaxretr.eval.results import Results
from jaxretr.eval.validation import Validator
from jaxretr.locks import DirectoryInUse
from tests import test_tracking, tiny
from tests.compilations import compilation_events

ROOT = Path(__file__).parents[1]


def assert_same_model(a: Path, b: Path) -> None:
    """Bit for bit."""
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def metrics(config: Config) -> list[dict[str, float]]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def after_each_step(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Pass the number and the metrics of each update that is dispatched to `change`, which returns the metrics."""
    fit = run.fit

    def changed(state, step, batches, **others):
        numbers = itertools.count(int(state.step) + 1)

        def stepped(*arguments):
            after, metrics = step(*arguments)
            return after, change(next(numbers), metrics)

        return fit(state, stepped, batches, **others)

    monkeypatch.setattr(run, "fit", changed)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action) -> None:
    """Call `action` when update number `step` is dispatched."""

    def change(number, metrics):
        if number == step:
            action()
        return metrics

    after_each_step(monkeypatch, change)


@pytest.fixture(scope="module")
def finished(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that nothing interrupted."""
    config = tiny.run_config(tiny_root, tmp_path_factory.mktemp("finished") / "run")
    run.train(config)
    return config


def test_a_run_leaves_what_it_promises(finished: Config) -> None:
    output = Path(finished.output_dir)
    assert {path.name for path in output.iterdir()} == {
        *("config.json", "content.json", "results_before.json", "results.json", "metrics.jsonl"),
        *("checkpoints", "tensorboard", "model"),
    }
    assert json.loads((output / "config.json").read_text()) == finished.to_dict()
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["10", "12"]
    assert list((output / "tensorboard").glob("events.out.tfevents.*"))
    rows = metrics(finished)
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12]
    assert all(np.isfinite(row["loss"]) and 0 <= row["padding_share"] < 1 for row in rows)
    assert rows[-1]["learning_rate"] == pytest.approx(3e-3 / 10)


def test_it_learns(finished: Config) -> None:
    output = Path(finished.output_dir)
    before, after = Results.load(output / "results_before.json"), Results.load(output / "results.json")
    assert after.scalars()["mono/AP"] > before.scalars()["mono/AP"] + 0.1
    assert metrics(finished)[-1]["loss"] < metrics(finished)[0]["loss"]


def test_the_exported_model_is_the_one_that_was_evaluated(finished: Config) -> None:
    output = Path(finished.output_dir)
    encoder = Encoder.load(output / "model")
    assert (encoder.query_prefix, encoder.passage_prefix, encoder.max_length) == ("query: ", "passage: ", 16)
    card = (output / "model" / "README.md").read_text()
    value = Results.load(output / "results.json").scalars()["multi/AP"]
    assert f"{value:.4f}" in card and "alpha: 0.5" in card
    metadata = ModelCard(card).data
    assert metadata.language == ["en", "de", "el"] and metadata.model_name == "run"
    measured = {result.metric_name: result.metric_value for result in metadata.eval_results}
    assert measured["multi AP"] == pytest.approx(value, abs=5e-5)


def test_the_step_is_compiled_once_for_each_shape(finished: Config) -> None:
    shapes = metrics(finished)[-1]["compilations"]
    assert 1 <= shapes <= 1 * 1  # one bucket of queries (8 tokens), one of passages (16)


def test_a_finished_run_is_not_run_again(finished: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 1, lambda: pytest.fail("trained again"))
    written = (Path(finished.output_dir) / "metrics.jsonl").read_text()
    run.train(finished)
    assert (Path(finished.output_dir) / "metrics.jsonl").read_text() == written


@pytest.mark.parametrize("step", [1, 7])
def test_interrupted_it_saves_and_goes_on_bit_for_bit(
    step: int, finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}"):
            run.train(tiny_config)
    assert str(step) in [path.name for path in (Path(tiny_config.output_dir) / "checkpoints").iterdir()]
    assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")
    assert [row["step"] for row in metrics(tiny_config) if row["step"] in (4, 8, 12)] == [4, 8, 12]


def test_a_second_run_in_one_directory_is_refused_and_harms_nothing(
    finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def again() -> None:
        with pytest.raises(DirectoryInUse, match=r"run is in use by process .* holds .*lock; .* another output_dir"):
            run.train(dataclasses.replace(tiny_config, resume=False))
        refused.append(True)

    with monkeypatch.context() as patch:
        at_step(patch, 7, again)
        assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")
    assert refused == [True]


def test_a_crash_goes_on_from_the_last_checkpoint_and_no_step_is_logged_twice(
    finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        at_step(patch, 9, crash)
        with pytest.raises(Crash):
            run.train(tiny_config)
    assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")
    same = ("step", "loss", "accuracy", "grad_norm", "learning_rate")
    assert [[row[name] for name in same] for row in metrics(tiny_config)] == [
        [row[name] for name in same] for row in metrics(finished)
    ]


def test_a_full_disk_leaves_the_last_good_checkpoint(
    finished: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 8 on no file can grow beyond 10 kB, less than a checkpoint needs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    first = Path(tiny_config.output_dir) / "checkpoints" / "5"

    def fill_disk() -> None:
        while not first.exists():  # it is written in the background
            time.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    try:
        with monkeypatch.context() as patch:
            at_step(patch, 8, fill_disk)
            with pytest.raises(OSError, match="resumes from checkpoint 5.* Free some disk space"):
                run.train(tiny_config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_same_model(run.train(tiny_config), Path(finished.output_dir) / "model")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_each_step(
        monkeypatch,
        lambda number, metrics: metrics._replace(loss=jax.numpy.float32(np.nan)) if number == 7 else metrics,
    )
    with pytest.raises(FloatingPointError, match=r"loss of step 7 is nan.*batch of (en|de|el):train\d+, .*lower train"):
        run.train(tiny_config)
    assert [path.name for path in (Path(tiny_config.output_dir) / "checkpoints").iterdir()] == ["5"]


def test_another_config_in_the_same_directory_is_refused(finished: Config) -> None:
    other = dataclasses.replace(finished, train=dataclasses.replace(finished.train, learning_rate=1e-4))
    with pytest.raises(ValueError, match=r"other settings \(train.learning_rate was 0.003, is 0.0001\)"):
        run.train(other)
    with pytest.raises(ValueError, match="holds a run, and resume is False"):
        run.train(dataclasses.replace(finished, resume=False))


def test_changed_data_under_the_same_path_is_refused(finished: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*arguments: object) -> object:
        return dataclasses.replace(load(*arguments), fingerprint="changed")

    load = run.pair_index.load
    monkeypatch.setattr(run.pair_index, "load", changed)
    with pytest.raises(
        ValueError, match=r"different content under the same names \(training data was '\w+', is 'changed'"
    ):
        run.train(finished)


def test_a_run_from_before_hardening_goes_on_unhardened(tiny_config: Config) -> None:
    """Its config.json has no such settings."""
    output = Path(tiny_config.output_dir)
    (output / "checkpoints" / "5").mkdir(parents=True)
    older = {name: value for name, value in tiny_config.to_dict().items() if name != "hardening"}
    (output / "config.json").write_text(json.dumps(older))
    hardened = dataclasses.replace(tiny_config, hardening=HardeningConfig(method="fgm"))
    with pytest.raises(ValueError, match=r"other settings \(hardening.method was '', is 'fgm'\)"):
        run.claim_output_dir(hardened)
    assert run.claim_output_dir(tiny_config) == output
    assert json.loads((output / "config.json").read_text()) == tiny_config.to_dict()


def test_without_a_held_out_split_it_trains_without_evaluation_if_asked(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"query": f"query: {i}", "passage": f"passage {i}", "language": code, "id": i, "neg": ["x"] * (i % 2)}
        for i in range(20)
        for code in tiny_config.data.languages
    ]
    source = tmp_path / "mine.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, source=str(source)))
    monkeypatch.setattr(run, "_optimize", lambda config, output_dir, encoder, *_: encoder.params)
    with pytest.raises(ValueError, match=r"pairs has no split 'test' .*; it has train\..*evaluation\.dataset=none"):
        run.train(config)
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, dataset="none"))
    too_many = dataclasses.replace(config, data=dataclasses.replace(config.data, num_hard_negatives=2))
    with pytest.raises(ValueError, match=r"num_hard_negatives=2 is too high: .* at most 1 "):
        run.train(too_many)
    model = Path(run.train(config))
    card = (model / "README.md").read_text()
    assert "Not evaluated." in card and "Examples with 1 hard negative: en 10, de 10, el 10." in card
    assert not list(Path(config.output_dir).glob("results*"))
    written = (model / "model.safetensors").stat().st_mtime_ns
    assert run.train(config) == model and (model / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pgd", "typos", "translations"])
def test_hardened_it_goes_on_bit_for_bit(
    method: str, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, random starts, typos and drawn translations; the losses of both kinds are logged."""
    chosen = HardeningConfig(method=method, rho=0.05, steps=1)
    config = dataclasses.replace(tiny_config, hardening=chosen, train=dataclasses.replace(tiny_config.train, steps=6))
    whole = dataclasses.replace(config, output_dir=str(tmp_path / "whole"))
    model = run.train(whole)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
            run.train(config)
    assert_same_model(run.train(config), model)
    last = metrics(whole)[-1]
    assert np.isfinite([last["loss"], last["clean_loss"], last["adversarial_loss"]]).all()
    assert last["adversarial_loss"] > 0 or method == "typos"  # made-up words of two letters have none


@pytest.mark.slow
def test_with_sparse_embeddings_it_goes_on_bit_for_bit(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = dataclasses.replace(tiny_config.train, steps=6, sparse_embeddings=True)
    config = dataclasses.replace(tiny_config, train=sparse)
    model = run.train(dataclasses.replace(config, output_dir=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
            run.train(config)
    assert_same_model(run.train(config), model)


def test_a_batch_that_devices_cannot_share_is_refused_before_anything_is_written(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, batch_size=12))
    with pytest.raises(ValueError, match="batch_size=12 cannot be divided evenly over 8 devices; .* such as 8 or 16"):
        run.train(config)
    assert not Path(config.output_dir).exists()


def test_a_language_the_data_lacks_is_named(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, languages=("en", "fi")))
    with pytest.raises(ValueError, match="no language fi; it has de, el, en"):
        run.train(config)
    assert run.claim_output_dir(tiny_config) == Path(tiny_config.output_dir)  # nothing stands in the way of another try


def test_a_language_without_typos_is_refused_before_anything_is_written(tiny_config: Config) -> None:
    data = dataclasses.replace(tiny_config.data, languages=("en", "fi"))
    config = dataclasses.replace(tiny_config, data=data, hardening=HardeningConfig(method="typos"))
    with pytest.raises(ValueError, match="No typos can be made in language fi"):
        run.train(config)
    assert not Path(config.output_dir).exists()


@pytest.fixture(scope="module")
def watched(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, list[int]]:
    """The same run evaluated every five steps, and how many programs XLA compiled in each evaluation."""
    config = tiny.run_config(tiny_root, tmp_path_factory.mktemp("watched") / "run")
    config = with_evaluation(config, every_steps=5)
    compiled: list[int] = []
    evaluate = Validator.evaluate

    def counted(*arguments):
        before = len(compilations)
        results = evaluate(*arguments)
        compiled.append(len(compilations) - before)
        return results

    with pytest.MonkeyPatch.context() as patch, compilation_events() as compilations:
        patch.setattr(Validator, "evaluate", counted)
        run.train(config)
    return config, compiled


def with_evaluation(config: Config, **changes) -> Config:
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **changes))


def test_evaluations_change_no_bit_of_the_training(watched: tuple[Config, list[int]], finished: Config) -> None:
    output = Path(watched[0].output_dir)
    assert_same_model(output / "model", Path(finished.output_dir) / "model")
    trained = [row for row in metrics(watched[0]) if "loss" in row]
    assert [row["loss"] for row in trained if row["step"] in (10, 12)] == [
        row["loss"] for row in metrics(finished) if row["step"] in (10, 12)
    ]


def test_only_the_first_evaluation_compiles(watched: tuple[Config, list[int]]) -> None:
    """Before training, after steps 5, 10 and 12, and of the exported model."""
    assert len(watched[1]) == 5
    assert watched[1][1:] == [0, 0, 0, 0]


def test_curves_of_the_evaluations(watched: tuple[Config, list[int]]) -> None:
    config, output = watched[0], Path(watched[0].output_dir)
    measured = [row for row in metrics(config) if "multi/AP" in row]
    assert [row["step"] for row in measured] == [0, 5, 10, 12]
    by_language = [measured[-1][f"multi/AP/{language}"] for language in tiny.LANGUAGES]
    assert np.mean(by_language) == pytest.approx(measured[-1]["multi/AP"])
    for row, name in ((measured[0], "results_before.json"), (measured[-1], "results.json")):
        assert Results.load(output / name).scalars().items() <= row.items()
    shown = test_tracking.curves(output)
    assert shown["evaluation/multi/AP"] == [(row["step"], pytest.approx(row["multi/AP"])) for row in measured]
    assert [step for step, _ in shown["evaluation/multi/AP/el"]] == [0, 5, 10, 12]
    assert [step for step, _ in shown["train/loss"]] == [4, 5, 8, 10, 12]


def test_early_stopping_exports_the_best_state(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A measure that peaks after step 3, of twelve, with patience for two evaluations."""
    real: list[dict[str, float]] = []
    curves = Validator.curves

    def peaked(self, results):
        real.append(curves(self, results))
        return real[-1] | {"multi/AP": [0.1, 0.9, 0.7, 0.8][len(real) - 1]}

    monkeypatch.setattr(Validator, "curves", peaked)
    config = with_evaluation(tiny_config, every_steps=3, patience=2)
    model = run.train(config)
    output = Path(config.output_dir)
    assert {row["step"] for row in metrics(config)} == {0, 3, 4, 5, 6, 8, 9}
    assert sorted(int(path.name) for path in (output / "checkpoints").iterdir()) == [3, 6, 9]
    exported = Results.load(output / "results.json").scalars()
    assert exported.items() <= real[1].items() and exported["multi/AP"] != real[3]["multi/AP"]
    said = capsys.readouterr().out
    assert "stopping early: 2 evaluations without improvement" in said
    assert "exporting the best state, after step 3" in said
    assert f"{exported['multi/AP']:.4f}" in (model / "README.md").read_text()


def test_another_collection_decides(tiny_config: Config, tmp_path: Path) -> None:
    """One in BEIR layout, in one of the three languages."""
    source = tmp_path / "beir"
    (source / "qrels").mkdir(parents=True)
    texts = {f"d{i}": f"de{i} de{i + 1} de{i + 2}" for i in range(20)}
    for name, cut in (("corpus", None), ("queries", 1)):
        lines = [json.dumps({"_id": key, "text": " ".join(text.split()[:cut])}) for key, text in texts.items()]
        (source / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    judgements = [f"{key}\t{key}\t1" for key in texts]
    (source / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]) + "\n")
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, steps=2))
    config = with_evaluation(
        config,
        dataset="beir",
        source=str(source),
        languages=("de",),
        every_steps=1,
        best_measure="mono/Success@2",  # none of the usual measures
        patience=1,
    )
    run.train(config)
    results = Results.load(Path(config.output_dir) / "results.json")
    assert "beir" in results.collection and list(results.settings) == ["mono"]
    (task,) = results.settings["mono"].tasks
    assert (task.query_language, task.queries, task.passages) == ("de", 20, 20)
    measured = {row["step"]: row["mono/Success@2"] for row in metrics(config) if "mono/Success@2" in row}
    assert list(measured) == [0, 1, 2]
    assert results.scalars()["mono/Success@2"] == max(measured[1], measured[2])


def test_a_measure_that_cannot_choose_is_refused_before_training(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 1, lambda: pytest.fail("trained"))
    with pytest.raises(ValueError, match="cannot compute the measure 'nDGC@10': did you mean nDCG"):
        run.train(with_evaluation(tiny_config, every_steps=5, best_measure="multi/nDGC@10"))
    assert not Path(tiny_config.output_dir).exists()
    with pytest.raises(ValueError, match="pairs/test allows mono only; set evaluation.best_measure, .* to mono/AP"):
        run.train(with_evaluation(tiny_config, every_steps=5, languages=("en",)))


def spawn(root: Path) -> subprocess.Popen[str]:
    """At most forty steps, evaluated every three."""
    command = [sys.executable, "scripts/train.py", "--config", "tests/tiny_config.py", "--config.train.steps=40"]
    command += ["--config.evaluation.every_steps=3", "--config.evaluation.patience=2"]
    command += ["--config.evaluation.best_measure=mono/R@1"]
    environment = {**os.environ, "JAXRETR_TINY_ROOT": str(root), "XLA_FLAGS": ""}
    return subprocess.Popen(
        [*command, "--config.checkpoint_every_steps=3", "--config.log_every_steps=1"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """kill -9 at random moments, from the first second of a process on: training, evaluating, stopping early."""
    started = time.monotonic()
    whole = spawn(tmp_path / "whole")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    assert "stopping early" in output
    seconds = time.monotonic() - started
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 5:
        process = spawn(tmp_path / "killed")
        try:
            process.wait(timeout=rng.uniform(0.1, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:  # the run ended before it was killed often enough: start anew, and kill sooner
            shutil.rmtree(tmp_path / "killed" / "run")
            kills, seconds = 0, 0.7 * seconds
    last = spawn(tmp_path / "killed")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert_same_model(tmp_path / "killed" / "run" / "model", tmp_path / "whole" / "run" / "model")
    first, second = (
        [row for row in (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines() if "mono/R@1" in row]
        for name in ("killed", "whole")
    )
    assert first == second
