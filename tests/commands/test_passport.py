"""Passports of models: what the dry run says of files at hand, and what `--check-models` finds of any model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_hub import broken_hub
from builders import CB_TASK, OWN_SPECIAL, WORDS, make_encoder, write_tokenizer
from printed import printed
from rich.console import Console
from transformers import AutoModelForMaskedLM

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.memory_forecast import forecast_memory
from xlmr_sweep.commands.model_passports import examine_models
from xlmr_sweep.commands.passport import Passport, passports_at_hand
from xlmr_sweep.commands.passport_table import passport_table
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling import loading
from xlmr_sweep.modeling.hub_reach import TRIES
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

QUIET = Console(quiet=True)


@pytest.fixture
def make_study(study_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of models in folders, given by name and family; `headless` has no masked-LM head."""

    def make(*families: str, **more: Any) -> Path:
        models = []
        for family in families:
            has_head = family != "headless"
            kind = family if has_head else "xlm-roberta"
            folder = make_encoder(tmp_path / family, kind, head=has_head)
            if kind in OWN_SPECIAL:
                write_tokenizer(folder, family=kind, special=OWN_SPECIAL[kind])
            models.append({"name": family, "folder": str(folder), **({} if has_head else {"new_head": True})})
        return study_file(models=models, **more)

    return make


def at_hand(path: Path, storage: Storage) -> tuple[dict[str, Passport], list[str]]:
    study = load_study(str(path))
    trials = expand(study)
    found, without = passports_at_hand(study, storage, trials, forecast_memory(study, storage, trials, set()))
    return {passport.model: passport for passport in found}, without


def examined(path: Path, storage: Storage) -> tuple[dict[str, Passport], list[StudyError]]:
    study = load_study(str(path))
    found, problems = examine_models(study, storage, expand(study), QUIET)
    return {passport.model: passport for passport in found}, problems


def test_a_passport_says_what_the_files_hold(make_study: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = make_study("bert", "modernbert", "distilbert", "headless"), Storage(tmp_path / "runs")
    checked, problems = examined(path, storage)
    cheap, without = at_hand(path, storage)
    assert problems == without == []
    assert not (tmp_path / "runs").exists()
    for family in ("bert", "modernbert", "distilbert"):
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / family)
        rows = [p.numel() for p in model.parameters() if p.shape[0] == model.config.vocab_size]
        passport = checked[family]
        assert passport.size.total == model.num_parameters()
        assert passport.size.body == passport.size.total - sum(rows)
        assert passport.family == family
        assert passport.mask == "[MASK]"
        number = {word: 4 + i for i, word in enumerate(dict.fromkeys(WORDS))}
        assert passport.label_words == {word: (word, number[word]) for word in ("yes", "no", "maybe")}
        assert passport.is_fast == (family != "distilbert")
        assert passport.positions == (128 if family == "modernbert" else 130)
        assert passport.head == "whole"
        assert passport.memory is not None
        # The dry run says the same, where files alone can tell.
        assert cheap[family].label_words == passport.label_words
        assert (cheap[family].mask, cheap[family].positions) == (passport.mask, passport.positions)
        assert cheap[family].size.is_exact == (family != "distilbert")
        assert not cheap[family].size.is_exact or cheap[family].size == passport.size
        assert cheap[family].head == ("not looked at" if family == "distilbert" else "whole")
    assert checked["headless"].head == cheap["headless"].head == "new"


def test_a_demo_model_has_a_passport_before_it_exists(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file(
        models=[{"name": "small", "demo": "small"}], tasks=["cb"], data={"source": "demo"}, instructions={"source": "demo"}
    )
    found, problems = examined(path, Storage(tmp_path / "runs"))
    assert problems == []
    assert found["small"].family == "xlm-roberta"
    assert found["small"].head == "made by the study"
    assert found["small"].size.total > found["small"].size.body > 100_000
    assert at_hand(path, Storage(tmp_path / "runs"))[1] == ["small"]


def test_all_models_are_checked_and_each_that_is_wrong_is_one_line(
    make_study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_study("xlm-roberta", "gte", "bert")
    config = tmp_path / "gte" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "new"}))
    (tmp_path / "bert" / "model.safetensors").unlink()
    loading.load_config.cache_clear()
    with pytest.raises(StudyError, match=r"^model bert: .* holds no weights"):
        entry.check_models(Request(str(path), str(tmp_path / "runs")), Console(width=200))
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("Error: model gte: "))
    assert "comes with code of its own" in line
    assert "│ xlm-roberta │" in shown
    assert not (tmp_path / "runs").exists()


def test_a_hub_that_is_silent_is_said_at_once_and_asked_no_more(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [{"name": name, "hub": f"nobody/{name}"} for name in ("one", "two")]
    path, console = study_file(models=models), Console(width=200)
    monkeypatch.setattr("xlmr_sweep.modeling.hub_reach.PAUSE_S", 0.0)
    with broken_hub(monkeypatch, 503) as hub, pytest.raises(StudyError, match=r"model two: no tokenizer loads from nobody/two"):
        entry.check_models(Request(str(path), str(tmp_path / "runs")), console)
    assert len(hub.requests) == TRIES
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "Checking 2 models; small files of one, two come from the hub or its cache, and no weights"
    assert "does not answer (status 503)" in second
    assert "model one: no tokenizer loads from nobody/one" in third


def test_a_word_of_two_tokens_is_named_with_its_model(make_study: Callable[..., Path], tmp_path: Path) -> None:
    path = make_study("xlm-roberta")
    write_tokenizer(tmp_path / "xlm-roberta", [word for word in WORDS if word != "maybe"])
    found, problems = examined(path, Storage(tmp_path / "runs"))
    assert found == {}
    (problem,) = problems
    assert str(problem).startswith("model xlm-roberta: task cb: label word 'maybe' is an unknown token")


def test_words_are_those_of_the_prompts_that_are_asked(make_study: Callable[..., Path], tmp_path: Path) -> None:
    prompts = [{"name": "a", "label_words": ["yes", "no", "maybe"]}, {"name": "b", "label_words": ["red", "green", "so"]}]
    task = CB_TASK | {"label_words": ["qq", "rr", "ss"]}
    path = make_study("xlm-roberta", tasks=[task], prompts={"cb": prompts})
    storage = Storage(tmp_path / "runs")
    for found, others in (at_hand(path, storage), examined(path, storage)):
        assert others == []
        assert list(found["xlm-roberta"].label_words) == ["yes", "no", "maybe", "red", "green", "so"]


def test_the_dry_run_names_models_without_files_and_fetches_nothing(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(
        models=[
            {"name": "here", "folder": str(make_encoder(tmp_path / "here"))},
            {"name": "away", "hub": "nobody/has-this-model"},
        ]
    )
    assert entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(width=200)) == 0
    shown = capsys.readouterr().out
    assert "No passport (files not at hand; --check-models fetches the small ones): away" in shown
    number = 4 + list(dict.fromkeys(WORDS)).index("maybe")
    assert f"maybe: maybe {number}" in shown


def test_what_markup_a_token_holds_is_shown_as_it_is(make_study: Callable[..., Path], tmp_path: Path) -> None:
    path = make_study("bert")
    passports, _ = at_hand(path, Storage(tmp_path / "runs"))
    assert "│ [MASK] │" in printed([passport_table(load_study(str(path)), list(passports.values()))])
