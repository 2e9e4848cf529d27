from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from retort.config import JobConfig, Ref, plain
from retort.errors import ConfigError


class Sample(JobConfig):
    corpus: Annotated[str, Ref("corpus")]
    top_k: int = Field(8, ge=1, description="k")
    batch: int = plain(32, description="b")


def test_identity_holds_only_what_affects_the_result():
    assert Sample(corpus="a", batch=1, store="x", name="y").identity() == {"seed": 13, "top_k": 8}


class Several(JobConfig):
    corpus: Annotated[str, Ref("corpus")]
    base: Annotated[str | None, Ref("encoder")] = None
    sets: Annotated[tuple[str, ...], Ref("queries")] = ()


def test_each_artefact_of_a_field_of_several_has_a_role():
    config = Several(corpus="c", sets=("a", "b"))
    assert config.named() == {"corpus": ("c", "corpus"), "sets.0": ("a", "queries"), "sets.1": ("b", "queries")}
    assert config.identity() == {"seed": 13}


class Service(BaseModel):
    url: str = "here"
    timeout_s: float = plain(60.0)


class Nested(JobConfig):
    service: Service | None = None
    spare: tuple[Service, ...] = ()
    by_name: dict[str, list[Service]] = Field(default_factory=dict)


def test_identity_leaves_out_what_is_plain_in_models_inside_it():
    def nested(timeout_s):
        service = Service(timeout_s=timeout_s)
        return Nested(service=service, spare=(service, service), by_name={"a": [service]}).identity()

    here = {"url": "here"}
    assert nested(1) == nested(2) == {"seed": 13, "service": here, "spare": [here, here], "by_name": {"a": [here]}}
    assert Nested().identity() == {"seed": 13, "service": None, "spare": [], "by_name": {}}


def test_unknown_field_is_named_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"my\.yaml: unknown field 'topk'\. Did you mean 'top_k'"):
        Sample.validated({"corpus": "a", "topk": 3}, "my.yaml")


def test_wrong_value_names_field_value_and_expectation():
    with pytest.raises(ConfigError, match=r"field 'top_k' is 0: Input should be greater than or equal to 1"):
        Sample.validated({"corpus": "a", "top_k": 0})
    with pytest.raises(ConfigError, match="field 'corpus' is missing"):
        Sample.validated({})
