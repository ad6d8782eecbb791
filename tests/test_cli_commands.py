"""The commands, end to end, on a tiny model."""

import json
import shutil
from pathlib import Path

import meteora_rs
import pytest
from meteora_rs import MeteoraConfig
from meteora_rs.cli import loading, main
from tiny_text import save_adapter, save_model
from transformers import AutoModelForCausalLM

PROMPT = "how many plums do I have ?"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, `adapters/math`, `adapters/law`, and examples with a bundle of both."""
    folder = tmp_path_factory.mktemp("cli")
    model = save_model(folder / "model")
    for seed, name in enumerate(("math", "law")):
        save_adapter(folder / "adapters" / name, model, seed)
    meteora = meteora_rs.attach(AutoModelForCausalLM.from_pretrained(model))
    for name in ("math", "law"):
        meteora.load_adapter(folder / "adapters" / name, adapter_name=name)
    meteora.save_pretrained(folder / "examples" / "bundle")

    def turn(adapter: str, prompt: str) -> dict[str, str | None]:
        return {"adapter": adapter, "prompt": prompt, "expected": None}

    prompts = [
        {"group": "math", "turns": [turn("math", PROMPT)]},
        {"group": "general", "turns": [turn("__base__", "tell me of Paris .")]},
        {"group": "both", "turns": [turn("math", PROMPT), turn("law", "yes or no ?")]},
    ]
    (folder / "examples" / "prompts.json").write_text(json.dumps({"prompts": prompts}))
    (folder / "texts.jsonl").write_text('"how many plums do I have ? two"\n"how many figs ? one"\n' * 3)
    (folder / "general.jsonl").write_text('"tell me of Paris ."\n"the law says yes ."\n' * 3)
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_generate(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--model", made / "model", "--max-new-tokens", 4)
    status = run("generate", PROMPT, "tell me", *common, "--adapters", made / "examples/bundle", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0
    assert [line["prompt"] for line in lines] == [PROMPT, "tell me"]
    for line in lines:
        assert "".join(piece for piece, _ in line["tokens"]).strip() == line["answer"]
        assert {leader for _, leader in line["tokens"]} <= {"math", "law"}
        assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-5)

    adapters = ("--adapter", f"math={made / 'adapters/math'}", "--adapter", made / "adapters/law")
    assert run("generate", PROMPT, *common, *adapters, "--route", "law", "--color", "always") == 0
    assert "\x1b[" in capsys.readouterr().out


def test_generate_names_what_is_missing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", made / "model", "--adapters", made / "examples/bundle", "--route", "sql")
    assert run("generate", PROMPT, *arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert '"sql"' in err and "law, math" in err


@pytest.mark.parametrize("prompts", [[""], [PROMPT, ""]])
def test_an_empty_prompt_is_named(made: Path, capsys: pytest.CaptureFixture[str], prompts: list[str]) -> None:
    assert run("generate", *prompts, "--model", made / "model", "--adapters", made / "examples/bundle") == 2
    assert "a prompt is empty" in capsys.readouterr().err


def test_pools_are_as_large_as_the_adapters_need(made: Path, tmp_path: Path) -> None:
    model = made / "model"
    config = MeteoraConfig()
    large = save_adapter(tmp_path / "large", model, 2, rank=config.pool_rank + 1)
    many = [f"a{number}={made / 'adapters/math'}" for number in range(config.max_adapters + 1)]
    adapters = [each for path in (large, *many) for each in ("--adapter", path)]
    common = (PROMPT, "--model", model, "--max-new-tokens", 1)
    assert run("generate", *common, *adapters) == 0


def test_a_full_bundle_has_room_for_named_adapters(made: Path, tmp_path: Path) -> None:
    model = loading.load_model(str(made / "model"))[0]
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(made / "adapters/math", adapter_name="math")
    meteora.save_pretrained(tmp_path / "full")
    meteora.detach()
    names = [f"all={made / 'adapters/law'}"]
    assert [each.name for each in loading.attach(model, [str(tmp_path / "full")], names).adapters()] == ["math", "all"]


def test_a_bundle_comes_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters = ("--adapter", made / "adapters/math", "--adapter", made / "examples/bundle")
    assert run("generate", PROMPT, "--model", made / "model", *adapters) == 2
    assert "is a bundle, which is loaded alone" in capsys.readouterr().err


def test_inspect(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", made / "adapters/math", "--model", made / "model", "--json") == 0
    finding = json.loads(capsys.readouterr().out)
    assert finding["loads"] and finding["kind"] == "a PEFT adapter"
    assert finding["adapters"][0]["rank"] == 4
    assert len(finding["adapters"][0]["modules"]) == finding["site_count"] == 14

    assert run("inspect", made / "examples/bundle", "--model", made / "model") == 0
    out = capsys.readouterr().out
    assert "a bundle" in out and "math: loads" in out and "law: loads" in out

    assert run("inspect", made / "adapters/math") == 1  # SmolLM2's shapes are others
    assert "does not load" in capsys.readouterr().out

    broken = shutil.copytree(made / "adapters/math", tmp_path / "broken")
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    assert run("inspect", broken, "--model", made / "model", "--json") == 1
    assert "use_dora" in json.loads(capsys.readouterr().out)["adapters"][0]["reason"]

    assert run("inspect", tmp_path / "nothing") == 2


def test_fit_gates_writes_a_bundle(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("fit-gates", "--model", made / "model", "--adapter", made / "adapters/math")
    texts = ("--texts", f"math={made / 'texts.jsonl'}")
    status = run(*base, *texts, "--texts", f"__base__={made / 'general.jsonl'}", "--out", tmp_path / "bundle")
    assert status == 0
    assert "wrote" in capsys.readouterr().out
    meteora = meteora_rs.attach_pretrained(AutoModelForCausalLM.from_pretrained(made / "model"), tmp_path / "bundle")
    assert [(record.name, record.gate) for record in meteora.adapters()] == [("math", "fitted")]

    more = ("--texts", f"law={made / 'general.jsonl'}", "--adapter", made / "adapters/law")
    picture = ("--json", "--plot", tmp_path / "fit.png")
    assert run(*base, *texts, *more, "--no-base", *picture, "--out", tmp_path / "second") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == ["math", "law"]
    assert (tmp_path / "fit.png").is_file()

    assert run(*base, *texts, "--no-base", "--out", tmp_path / "other") == 2
    assert "two classes" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteora_rs.Meteora, "fit_gates", lambda *_, **__: pytest.fail("fitted first"))
        assert run(*base, *texts, "--no-base", "--out", tmp_path / "mine") == 2
    assert "is no bundle" in capsys.readouterr().err


def test_train_gates_writes_a_bundle(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("train-gates", "--model", made / "model", "--adapter", made / "adapters/math", "--batch-size", 2)
    texts = ("--texts", f"math={made / 'texts.jsonl'}", "--texts", f"__base__={made / 'general.jsonl'}")
    short = ("--accumulate", 1, "--checkpoints", tmp_path / "checkpoints")
    assert run(*base, *texts, *short, "--steps", 2, "--out", tmp_path / "bundle") == 0
    assert "wrote" in capsys.readouterr().out
    meteora = meteora_rs.attach_pretrained(AutoModelForCausalLM.from_pretrained(made / "model"), tmp_path / "bundle")
    assert [(record.name, record.gate) for record in meteora.adapters()] == [("math", "fitted")]

    picture = ("--json", "--plot", tmp_path / "loss.png", "--resume")
    assert run(*base, *texts, *short, *picture, "--steps", 3, "--out", tmp_path / "bundle") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == ["math", "__base__"] and report["steps"] == 3
    assert (tmp_path / "loss.png").is_file()

    assert run(*base, *texts, "--flow", "--steps", 1, "--out", tmp_path / "flow") == 0
    assert "equal weights" in capsys.readouterr().out
    assert (tmp_path / "flow" / "flow.safetensors").is_file()

    assert run(*base, *texts, "--beta", 0, "--top-k", 1, "--out", tmp_path / "other") == 2
    assert "beta" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_evaluate(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("math", "law"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        line = json.dumps({"prompt": PROMPT, "response": "two"})
        (tmp_path / "tasks" / name / "test.jsonl").write_text(f"{line}\n")
    common = ("evaluate", tmp_path / "tasks", "--model", made / "model", "--adapters", made / "examples/bundle")
    common = (*common, "--out", tmp_path / "out", "--max-new-tokens", 4)
    assert run(*common, "--loss") == 0
    out = capsys.readouterr().out
    assert "mean of 2" in out and "report.html" in out
    assert json.loads((tmp_path / "out/report.json").read_text())["variants"] == ["base", "own", "auto"]

    names = ("k=1", "k=2", "arrow", "uniform")
    assert run(*common, "--complete", *(each for name in names for each in ("--variant", name))) == 0
    assert tuple(json.loads((tmp_path / "out/report.json").read_text())["variants"]) == names

    more = ("--only", "math", "--variant", "all", "--variant", "math=0.5,law=0.5", "--metric", "math=exact,number")
    assert run(*common, *more, "--named", f"all={made / 'adapters/math'}", "--max-new-tokens", "math=2") == 0
    assert "number" in capsys.readouterr().out

    for wrong, message in (
        (("--variant", "math=much"), "is no route"),
        (("--metric", "math"), "expected TASK=NAME"),
        (("--max-new-tokens", "math=x"), "not a whole number"),
        (("--max-new-tokens", "sql=3"), "no such task"),
        (("--only", "sql"), "there are law, math"),
    ):
        assert run(*common, *wrong) == 2
        assert message in capsys.readouterr().err


def test_doctor(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--model", made / "model", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"versions", "machine", "kernels", "cuda", "pools"}
    assert run("doctor", "--model", made / "model") == 0
    assert "kernels" in capsys.readouterr().out


@pytest.mark.parametrize("colour", ["always", "never"])
def test_demo(made: Path, capsys: pytest.CaptureFixture[str], colour: str) -> None:
    arguments = ("--model", made / "model", "--examples", made / "examples", "--max-new-tokens", 4)
    assert run("demo", *arguments, "--color", colour) == 0
    out = capsys.readouterr().out
    for text in ("2 adapters", "both, turn 2", "Auto() was served by", "of its speed"):
        assert text in out
    assert ("\x1b[" in out) == (colour == "always")


def test_bench_needs_a_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("meteora_rs.cli.checkout.__file__", str(tmp_path / "a/b/c/checkout.py"))
    assert run("bench") == 2
    assert "source checkout" in capsys.readouterr().err
