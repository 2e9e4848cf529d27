"""What the endpoint takes and gives, as pydantic models; the OpenAPI document is made from these.

Limits that depend on the deployment (query length, body size) are checked in api.py; what is fixed is here. Offsets of
highlighted words count Unicode code points, start included, end excluded.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MAX_K = 1000
MAX_OFFSET = 10_000
MAX_QUERIES = 128
MAX_HITS = MAX_OFFSET + MAX_K
"""Hits that all queries of a request may look for together; one query alone cannot want more."""
MAX_FILTERS = 16
MAX_FILTER_VALUES = 1000
_MAX_FIELDS = 100
"""Fields of an object that are looked at, known or not."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends


def _searchable(text: str) -> str:
    """Refuse what no corpus text can match and what breaks terminals and logs: control characters, and nothing but space."""
    found = _CONTROL.search(text)
    if found:
        raise ValueError(f"character {found.start()} is the control character U+{ord(found[0]):04X}; remove it")
    if not text.strip():
        raise ValueError("text is empty; give at least one character that is not space")
    return text


def _name(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("a name holds no control characters")
    return text


# A body of a megabyte holds a hundred thousand wrong things, and to find and name them all takes seconds in which nobody
# else is answered: sizes come first, and lists end at their first wrong item.
def _few_filters(filters: Any) -> Any:
    if isinstance(filters, dict) and len(filters) > MAX_FILTERS:
        raise ValueError(f"{len(filters)} filters; at most {MAX_FILTERS} are taken")
    return filters


QueryText = Annotated[str, AfterValidator(_searchable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_name)]
Scalar = Annotated[str, StringConstraints(max_length=1000)] | bool | int | float


class _Strict(BaseModel):
    """Unknown fields are errors; so are numbers written as strings."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > _MAX_FIELDS:
            raise ValueError(f"{len(given)} fields; known are {', '.join(cls.model_fields)}")
        return given


class Range(_Strict):
    """A half-open range: `gte` <= value < `lt`; either side may be left out, not both."""

    gte: Scalar | None = Field(None, description="Smallest value that passes.")
    lt: Scalar | None = Field(None, description="First value that no longer passes.")

    @model_validator(mode="after")
    def _sides(self) -> Self:
        if self.gte is None and self.lt is None:
            raise ValueError("a range needs gte, lt or both")
        if self.gte is not None and self.lt is not None and isinstance(self.gte, str) != isinstance(self.lt, str):
            raise ValueError("gte and lt must both be numbers or both be strings")
        return self


FilterValue = (
    Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=MAX_FILTER_VALUES, fail_fast=True)] | Range
)
Filters = Annotated[dict[Name, FilterValue], Field(max_length=MAX_FILTERS), BeforeValidator(_few_filters)]
Queries = Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)]


class SearchRequest(_Strict):
    """One query, or several that share every other setting."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "how do I read a file line by line", "k": 5},
                {"queries": ["open a socket", "close a socket"], "k": 3, "group_by": "doc_id"},
                {"query": "sort a list", "filters": {"lang": "en", "section": ["builtins", "heapq"]}},
            ]
        }
    )

    query: QueryText | None = Field(None, description="The query. Give this or `queries`.")
    queries: Queries | None = Field(
        None,
        description=f"Several queries, answered together in the same order; queries times (offset + k) is at most {MAX_HITS}.",
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Hits per query.")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="Hits to skip, for paging.")
    encoder: Name | None = Field(None, description="Name of the query encoder. Default: the release's default.")
    filters: Filters | None = Field(
        None,
        description="Corpus field -> a value, a list of values (any passes), or a range {gte, lt}; all fields must pass.",
    )
    group_by: Literal["doc_id"] | None = Field(None, description="Keep only the best passage of each document.")
    rerank: int | None = Field(
        None,
        ge=1,
        le=MAX_K,
        description="Order this many first hits by the release's teacher, where it has one; at least offset + k.",
    )
    hybrid: bool = Field(False, description="Fuse with BM25 by reciprocal rank, where the release has it.")
    highlight: bool = Field(True, description="Return a snippet and the words that match the query.")
    deadline_ms: int | None = Field(
        None, ge=1, le=600_000, description="Answer within this time or give 504; the endpoint's own limit stays."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        queries = len(self.queries or (self.query,))
        hits = queries * (self.offset + self.k)
        if hits > MAX_HITS:
            raise ValueError(
                f"{queries} queries times offset + k are {hits} hits; at most {MAX_HITS} are found for a request: "
                "send fewer queries at once, or ask for a smaller k"
            )
        if self.rerank is not None and self.rerank < self.offset + self.k:
            raise ValueError(
                f"rerank is {self.rerank}; it must be at least offset + k, which is {self.offset + self.k}"
            )
        return self

    @property
    def texts(self) -> list[str]:
        """The queries, one or several."""
        return [self.query] if self.query is not None else list(self.queries or [])


@dataclass(slots=True)
class Snippet:
    """The part of a passage's text that is worth showing."""

    text: Annotated[str, Field(description="A stretch of the passage's text, cut at words.")]
    start: Annotated[int, Field(description="Where it begins in the passage's text, in code points.")]
    cut_before: Annotated[bool, Field(description="Whether text was left out before it.")]
    cut_after: Annotated[bool, Field(description="Whether text was left out after it.")]
    words: Annotated[
        list[tuple[int, int]],
        Field(description="Matching words: [start, end) within the snippet, in code points."),
    ]


@dataclass(slots=True)
class Hit:
    """One passage found."""

    # Dataclasses, as Snippet is: an answer has ten of each, and models take several times as long to make.
    passage_id: Annotated[str, Field(description="The passage's id in the corpus.")]
    score: Annotated[float, Field(description="Similarity of query and passage; see the answer's score_kind.")]
    text: Annotated[str, Field(description="The passage's text, without its title.")]
    title: Annotated[str, Field(description="The title of its document; empty if there is none.")]
    doc_id: Annotated[str, Field(description="The document it belongs to.")]
    lang: Annotated[str, Field(description="Language tag (BCP 47); empty if unknown.")]
    section: Annotated[str, Field(description="Section of the corpus; empty if there is none.")]
    fields: Annotated[dict[str, Any], Field(description="Further corpus fields, which filters can use.")]
    snippet: Annotated[Snippet | None, Field(description="Present unless highlight is false.")] = None
    title_words: Annotated[list[tuple[int, int]], Field(description="Matching words of the title.")] = field(
        default_factory=list
    )


@dataclass(slots=True, kw_only=True)
class ReleaseStamp:
    """Which artefacts answered."""

    name: Annotated[str, Field(description="The release.")]
    version: Annotated[int, Field(description="Its version; 0 if it was never saved.")] = 0
    index: Annotated[str, Field(description="Digest of the index.")]
    encoder: Annotated[str, Field(description="Name of the query encoder.")]
    encoder_digest: Annotated[str, Field(description="Digest of the query encoder.")]
    routed_by: Annotated[
        Literal["request", "rule", "weight", "default"], Field(description="What chose the query encoder.")
    ] = "default"


@dataclass(slots=True, kw_only=True)
class Timings:
    """Milliseconds per stage; encode and search are those of the batch this request was part of."""

    queue: Annotated[float, Field(description="Waiting for the batch before to end.")]
    encode: Annotated[float, Field(description="Queries to vectors.")]
    search: Annotated[float, Field(description="Vectors to passages: index, filters, grouping.")]
    fuse: Annotated[float, Field(description="BM25 and fusion, where asked for.")] = 0.0
    rerank: Annotated[float, Field(description="The teacher, where asked for.")] = 0.0
    fetch: Annotated[float, Field(description="Passage texts and highlights.")]
    total: Annotated[float, Field(description="All of it, inside the replica.")]


class _Answer(BaseModel):
    release: ReleaseStamp
    score_kind: Literal["cosine", "inner_product", "reranked", "fused"] = Field(description="What `score` is.")
    timings_ms: Timings
    cached: bool = Field(False, description="True when the same request was answered before; stages are then 0.")
    degraded: bool = Field(False, description="True when some shard did not answer in time.")
    missing_shards: list[int] = Field(default_factory=list, description="The shards that did not answer.")


class SearchResponse(_Answer):
    """The answer to one query."""

    hits: list[Hit]


class QueryHits(BaseModel):
    """The hits of one of several queries."""

    hits: list[Hit]


class BatchSearchResponse(_Answer):
    """The answers to several queries, in their order."""

    results: list[QueryHits]


class EmbeddingsRequest(_Strict):
    """As OpenAI's embeddings endpoint takes it; `input_type` is our addition."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["a first text", "a second"], "model": "default"}]},
    )

    input: QueryText | Queries = Field(
        description="A text or several. Token arrays are not taken: the endpoint has its own tokenizer."
    )
    model: Name = Field("default", description="Name of a query encoder of the release, or `default`.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Numbers, or base64 of little-endian float32."
    )
    dimensions: int | None = Field(None, ge=1, description="Must equal the encoder's dimension if given.")
    user: str | None = Field(None, description="Accepted and not used.")
    input_type: Literal["query", "passage"] = Field(
        "query", description="Which side of the encoder, for those with prefixes."
    )

    @property
    def texts(self) -> list[str]:
        """The texts, one or several."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


class EmbeddingItem(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place of its text in `input`.")
    embedding: list[float] | str = Field(description="The vector, or its base64 form.")


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """As OpenAI's embeddings endpoint answers."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class EncoderInfo(BaseModel):
    """A query encoder that is being served."""

    name: str
    digest: str
    dimension: int


class RefusedChange(BaseModel):
    """A version of the release that failed its check and never took traffic."""

    version: int
    reason: str
    at: str = Field(description="When, ISO 8601 UTC.")


class ServiceInfo(BaseModel):
    """What is being served: the search page reads this."""

    release: str
    version: int = Field(0, description="Version of the release; 0 if it was never saved.")
    refused: RefusedChange | None = Field(None, description="A newer version that failed its check, if there is one.")
    index: str
    index_digest: str
    passages: int
    default_encoder: str
    encoders: list[EncoderInfo]
    hybrid: bool = Field(False, description="Whether requests may ask for BM25 beside the vectors.")
    max_rerank: int = Field(0, description="How many hits a request may have re-ranked; 0 without a teacher.")
    examples: list[str] = Field(description="Queries to try.")
    max_query_chars: int


class FieldProblem(BaseModel):
    """One thing wrong with a request body."""

    field: str = Field(description="Path of the field; empty for the whole body.")
    message: str


class Problem(BaseModel):
    """An error as RFC 9457 problem details (application/problem+json)."""

    type: str = Field(description="A URI reference naming the kind of problem.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong here, what was expected, how to mend it.")
    instance: str = Field(description="The path asked for.")
    request_id: str = Field(description="Quote this when asking for help.")
    errors: list[FieldProblem] | None = Field(None, description="Each wrong field, for a body that does not fit.")
