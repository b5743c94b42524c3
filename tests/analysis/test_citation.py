"""Fingerprints and citations of results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.citation import bibtex, citation, citation_file, results_fingerprint
from analysis.tables import from_table, load
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand, plan_fingerprint
from xlmr_sweep.study.spec import Study


def test_the_fingerprint_of_results_changes_with_the_last_bit_of_a_score(study_table: pd.DataFrame) -> None:
    first = results_fingerprint(from_table(study_table).rows)
    assert results_fingerprint(from_table(study_table.sample(frac=1, random_state=0)).rows) == first
    changed = study_table.assign(score=study_table["score"].where(study_table.index != 7, np.nextafter(study_table["score"], 1)))
    assert results_fingerprint(from_table(changed).rows) != first
    assert results_fingerprint(from_table(study_table.replace({"task": {"cb": "cB"}})).rows) != first


def test_a_storage_is_cited_with_the_fingerprint_of_its_study(made: Storage, study: Study) -> None:
    cited = citation(load(str(made)))
    assert cited.study == plan_fingerprint(trial.trial_id for trial in expand(study))
    assert (cited.num_trials, cited.num_planned) == (34, 36)
    longer = study.extended(seeds=[3])
    assert plan_fingerprint(trial.trial_id for trial in expand(longer)) != cited.study
    text = bibtex(cited, "lab", "https://example.org/x")
    assert f"study fingerprint {cited.study}, results fingerprint {cited.results}, 34 of 36 trials" in text
    assert text.count("{") == text.count("}")
    entry = yaml.safe_load(citation_file(cited))
    assert [item["value"] for item in entry["identifiers"]] == [cited.study, cited.results]


def test_scores_of_every_variant_and_prompt_are_in_the_fingerprint(study_table: pd.DataFrame) -> None:
    both = pd.concat([study_table.assign(variant="declared"), study_table.assign(variant="other")], ignore_index=True)
    cited = citation(from_table(both))
    assert cited.num_trials == cited.num_planned == 2 * len(study_table)
    assert citation(from_table(both.sample(frac=1, random_state=0))).results == cited.results
    changed = both.assign(score=both["score"].where(both.index != len(both) - 1, 0.5))
    assert citation(from_table(changed)).results != cited.results
    swapped = both.assign(variant=both["variant"].map({"declared": "declared", "other": "another"}))
    assert citation(from_table(swapped)).results != cited.results


def test_a_name_of_a_table_is_escaped_for_latex(study_table: pd.DataFrame) -> None:
    cited = citation(from_table(study_table, name="my_50%"))
    assert cited.study == ""
    assert r"Results of the study my\_50\%" in bibtex(cited)


@pytest.mark.parametrize("fingerprint", ["12e4567890123456", "1234567890123456", "0x12", "0o17", "08", "1.10"])
def test_a_fingerprint_that_looks_like_a_number_is_quoted(fingerprint: str, study_table: pd.DataFrame) -> None:
    """Readers of YAML 1.2 take 12e4567890123456 for a number."""
    cited = replace(citation(from_table(study_table)), study=fingerprint)
    assert f"value: '{fingerprint}'" in citation_file(cited)
    assert yaml.safe_load(citation_file(cited))["identifiers"][0]["value"] == fingerprint
