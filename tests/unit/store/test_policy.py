"""A policy names the artefact that brings what it forbids, wherever on the lineage that is."""

from __future__ import annotations

import pytest

from retort.errors import PolicyError
from retort.store import Artefact, Policy, Store, enforce, inherited, open_store


def publish(store: Store, kind: str, name: str, *inputs: Artefact, **said: object) -> Artefact:
    """An artefact that says `said` of itself, or else inherits."""
    draft = store.draft(kind, name, step="test", inputs={item.kind: item for item in inputs}, config={"name": name})
    with draft:
        draft.write_bytes("data", name.encode())
        return draft.publish(**({**inherited(inputs), **said} if inputs else said))  # type: ignore[arg-type]


@pytest.fixture
def store() -> Store:
    return open_store()


def test_without_a_policy_everything_passes(store: Store) -> None:
    enforce(Policy(), {"corpus": publish(store, "corpus", "c")})


def test_allowed_licences_are_compared_without_case(store: Store) -> None:
    corpus = publish(store, "corpus", "c", licences=["CC-BY-4.0"])
    queries = publish(store, "queries", "q", corpus)
    enforce(Policy(allowed_licences=("cc-by-4.0",)), {"queries": queries, "corpus": corpus})


def test_the_oldest_artefact_with_the_licence_is_named_and_not_its_descendants(store: Store) -> None:
    corpus = publish(store, "corpus", "secret", licences=["Proprietary"])
    candidates = publish(store, "candidates", "mined", corpus, licences=["Proprietary"])
    judgements = publish(store, "judgements", "judged", candidates)
    with pytest.raises(PolicyError) as refused:
        enforce(Policy(allowed_licences=("MIT",)), {"judgements": judgements, "corpus": corpus})
    message = str(refused.value)
    assert "corpus/secret" in message and "'Proprietary'" in message and "allowed are MIT" in message
    assert "judgements: candidates: corpus" in message, "how it came in"
    assert message.count("Proprietary") == 1, "told once, of the artefact that brings it"


def test_an_unknown_licence_is_not_allowed_however_it_is_said(store: Store) -> None:
    for name, said in (("silent", {}), ("honest", {"licences": ["unknown"]})):
        teacher = publish(store, "teacher", name, **said)
        with pytest.raises(PolicyError, match=f"teacher/{name} .* has no known licence; allowed are MIT"):
            enforce(Policy(allowed_licences=("MIT",)), {"teacher": teacher})
        enforce(Policy(allowed_licences=("MIT",), vouched_for=(f"teacher/{name}",)), {"teacher": teacher})


def test_an_empty_list_allows_none(store: Store) -> None:
    with pytest.raises(PolicyError, match="allowed are none at all"):
        enforce(Policy(allowed_licences=()), {"c": publish(store, "corpus", "c", licences=["MIT"])})


def test_personal_data_is_refused_and_so_is_silence_about_it(store: Store) -> None:
    policy = Policy(no_personal_data=True)
    clean = publish(store, "corpus", "clean", personal_data="none")
    enforce(policy, {"corpus": clean})
    mails = publish(store, "queries", "mails", personal_data="e-mail addresses of customers; names")
    judged = publish(store, "judgements", "judged", clean, mails)
    with pytest.raises(PolicyError, match=r"queries/mails .*holds personal data \(e-mail addresses of customers\)"):
        enforce(policy, {"judgements": judged})
    with pytest.raises(PolicyError, match=r"queries/mails"):
        enforce(Policy(no_personal_data=True, vouched_for=("queries/mails",)), {"judgements": judged})
    silent = publish(store, "teacher", "silent")
    with pytest.raises(PolicyError, match="teacher/silent .*does not say whether it holds personal data"):
        enforce(policy, {"teacher": silent})
    enforce(Policy(no_personal_data=True, vouched_for=("teacher/silent",)), {"teacher": silent})


def test_many_faults_are_told_in_short(store: Store) -> None:
    inputs = {f"r{i}": publish(store, "corpus", f"c{i}", licences=[f"L{i}"]) for i in range(5)}
    with pytest.raises(PolicyError, match="And 2 more"):
        enforce(Policy(allowed_licences=("MIT",)), inputs)


def test_what_an_ancestor_that_is_gone_brought_is_still_refused(store: Store) -> None:
    corpus = publish(store, "corpus", "gone", licences=["GPL-3.0"])
    candidates = publish(store, "candidates", "mined", corpus)
    corpus.area.delete_folder()
    with pytest.raises(PolicyError, match="candidates/mined .*'GPL-3.0'"):
        enforce(Policy(allowed_licences=("MIT",)), {"candidates": candidates})
