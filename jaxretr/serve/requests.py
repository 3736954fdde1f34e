"""Models of request bodies; each refuses unknown fields.

Input: parsed JSON. Output: objects whose values are all checked. Lone surrogates in texts are replaced as in
the encoder.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from jaxretr.index.types import LEXICAL_WEIGHT, UNKNOWN_LANGUAGE, IndexedPassage, LexicalQuery, SearchOptions
from jaxretr.serve.options import ServiceOptions
from jaxretr.tokenization import clean_text

DEFAULT_K = 10
"""Default number of passages per query, or `max_k` if `max_k` is smaller."""

_INT64 = 2**63
_KEYS = 64  # maximum number of metadata keys


def _cleaned(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def _at_most(limit: int, value: Any) -> Any:
    if isinstance(value, dict) and len(value) > limit:
        raise ValueError(f"expected at most {limit} names, got {len(value)}")
    return value


_FEW = BeforeValidator(functools.partial(_at_most, _KEYS))


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, int | list) for item in value):
        raise ValueError(
            "token ids are not accepted, since they may come from another tokenizer; send texts (with LangChain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False))"
        )
    return value


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]  # the default is only a placeholder for an absent field


def expecting(what: str) -> WrapValidator:
    """Return a validator that replaces the errors of a union, one per member, by one message."""

    def validate(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("unexpected_value", "expected " + what) from error

    return WrapValidator(validate)


Text = Annotated[str, BeforeValidator(_cleaned)]
Id = Annotated[str, Field(min_length=1, max_length=512)]
Language = Annotated[str, Field(min_length=1, max_length=35, examples=["en"])]
MetadataKey = Annotated[str, Field(max_length=128)]
MetadataValue = Annotated[
    bool | Annotated[int, Field(ge=-_INT64, lt=_INT64)] | float | Text,
    expecting("a string, a finite number, true or false"),
]
Wanted = Annotated[
    MetadataValue | Annotated[list[MetadataValue], Field(min_length=1, max_length=256)],
    expecting("a string, a finite number, true or false, or a list of 1 to 256 such values"),
]


class Request(BaseModel):
    """A request body: values must have exactly the declared types, numbers are finite, further fields are refused.

    A null in an optional field asks for the default, as in OpenAI's API.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        """Return the fields without optional fields that are null."""
        value = _at_most(len(cls.model_fields), value)  # before pydantic reports an error for each of a million fields
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or not cls._may_be_null(name, value)}

    @classmethod
    def _may_be_null(cls, name: str, values: dict[str, Any]) -> bool:
        return name in cls.model_fields and not cls.model_fields[name].is_required()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(schema)
        described = handler.resolve_ref_schema(reference)
        for name, field in described["properties"].items():
            if "type" in field and name not in described.get("required", ()):
                field["type"] = [field["type"], "null"]
                if "enum" in field:
                    field["enum"] = [*field["enum"], None]
        return reference


def _only(given: str, absent: str) -> dict[str, Any]:
    """Return the JSON schema of an object with the field `given`, whose field `absent` is null or missing."""
    return {"required": [given], "properties": {given: {"not": {"type": "null"}}, absent: {"type": "null"}}}


class Lexical(Request):
    """The lexical part of a search: the language of the query, and how words and vectors are combined."""

    language: Language = Field(description="language of the query; only passages in it are searched by words")
    fusion: Literal["rrf", "convex"] = Field(
        "rrf", description="reciprocal rank fusion, or a convex combination of the scaled scores"
    )
    weight: float | None = Field(
        None, ge=0, le=1, description=f"weight of the words in a convex combination; null for {LEXICAL_WEIGHT}"
    )

    @model_validator(mode="after")
    def _weight_of_convex(self) -> "Lexical":
        if self.weight is not None and self.fusion != "convex":
            raise ValueError('"weight" needs "fusion": "convex"')
        return self


class SearchRequest(Request):
    """One query or several queries, with common options."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_only("query", "queries"), _only("queries", "query")]})

    query: Text = ""
    queries: list[Text] = []
    k: int = DEFAULT_K
    languages: list[Language] = Field([], max_length=256, description="languages of the passages; empty for all")
    where: Annotated[dict[MetadataKey, Wanted], Field(max_length=_KEYS), _FEW] = Field(
        {}, description="metadata that a passage must have: key -> a value, or a list of allowed values"
    )
    per_language: int | None = Field(None, ge=1, description="maximum number of passages of one language")
    calibrate: bool = Field(False, description="subtract from each score the mean score in the passage's language")
    lexical: Lexical | None = Field(None, description="also search by words; null for vectors alone")
    rerank: bool | int | None = False

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "SearchRequest":
        if len(self.model_fields_set & {"query", "queries"}) != 1:
            raise ValueError('expected either "query", a string, or "queries", a list of strings')
        return self

    @classmethod
    def _may_be_null(cls, name: str, values: dict[str, Any]) -> bool:
        other = {"query": "queries", "queries": "query"}.get(name)
        return super()._may_be_null(name, values) if other is None else values.get(other) is not None

    @property
    def texts(self) -> list[str]:
        return self.queries or [self.query]

    def options(self) -> list[SearchOptions]:
        """Return the options of each query."""
        where = {key: tuple(value) if isinstance(value, list) else value for key, value in self.where.items()}
        common = SearchOptions(self.k, tuple(self.languages), where, self.per_language, self.calibrate)
        if self.lexical is None:
            return [common] * len(self.texts)
        settings = (self.lexical.language, self.lexical.fusion, self.lexical.weight)
        return [dataclasses.replace(common, lexical=LexicalQuery(text, *settings)) for text in self.texts]


class EmbeddingsRequest(Request):
    """A request in OpenAI's format, with a field for the prefix of the texts."""

    input: list[Text]
    model: str | None = Field(None, description="name of the model that the service serves")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = Field(None, description="ignored")
    input_type: Literal["query", "passage", "document"] = Field(
        "query", description="kind of the texts, which selects the model's prefix; a document is a passage"
    )

    @property
    def kind(self) -> Literal["query", "passage"]:
        return "query" if self.input_type == "query" else "passage"


class PassageToPut(Request):
    """A passage to add; it replaces an existing passage with the same id."""

    id: Id
    text: Text
    title: Text = ""
    language: Language = UNKNOWN_LANGUAGE
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=_KEYS), _FEW] = {}

    def passage(self) -> IndexedPassage:
        return IndexedPassage(self.id, self.text, self.title, self.language, self.metadata)


class PutRequest(Request):
    """Passages to add or to replace."""

    passages: list[PassageToPut]

    @model_validator(mode="after")
    def _ids_once(self) -> "PutRequest":
        seen = set()
        for passage in self.passages:
            if passage.id in seen:
                raise ValueError(f"the id {passage.id[:60]!r} is given twice; ids must be unique")
            seen.add(passage.id)
        return self


class DeleteRequest(Request):
    """Ids of passages to delete."""

    ids: list[Id]


class ReleaseRequest(Request):
    """Ids of quarantined passages to serve."""

    ids: list[Id]


class Requests(NamedTuple):
    """The request models with the limits of one service."""

    search: type[SearchRequest]
    embeddings: type[EmbeddingsRequest]
    put: type[PutRequest]
    delete: type[DeleteRequest]
    release: type[ReleaseRequest]


def limited_text(options: ServiceOptions, **limits: Any) -> Any:
    """Return the type of a text of at most `max_text_characters` characters, with further limits of pydantic."""
    return Annotated[str, Field(max_length=options.max_text_characters, **limits), BeforeValidator(_cleaned)]


def limited_list(options: ServiceOptions, kind: Any) -> Any:
    """Return the type of a list of 1 to `max_texts` values of a type."""
    return Annotated[list[kind], Field(min_length=1, max_length=options.max_texts)]


def requests(options: ServiceOptions, dim: int) -> Requests:
    """Return the models above with the limits of a service, in validation and in the OpenAPI description.

    Args:
      options: contains the limits.
      dim: width of an embedding, the only value of `dimensions` that is accepted.
    """

    def several(kind: Any) -> Any:
        return limited_list(options, kind)

    text_schema = {"type": "string", "minLength": 1, "maxLength": options.max_text_characters}
    list_schema = {"type": "array", "items": text_schema, "minItems": 1, "maxItems": options.max_texts}
    texts: Any = Annotated[
        several(limited_text(options, min_length=1)),
        BeforeValidator(_texts),
        WithJsonSchema({"title": "Input", "anyOf": [text_schema, list_schema]}),
    ]
    question = limited_text(options, pattern=r"\S")
    most = options.max_texts
    rerank = Annotated[
        bool | Annotated[int, Field(ge=1, le=most)] | None, expecting(f"true, false, or a number from 1 to {most}")
    ]
    about_rerank = "number of passages that the reranker scores per query, at least k; true for the default number"
    absent: Any = {"json_schema_extra": _without_default}
    put = create_model("PassageToPut", __base__=PassageToPut, text=(question, ...), title=(limited_text(options), ""))
    return Requests(
        create_model(
            "SearchRequest",
            __base__=SearchRequest,
            query=(question, Field("", **absent)),
            queries=(several(question), Field([], **absent)),
            k=(int, Field(min(DEFAULT_K, options.max_k), ge=1, le=options.max_k)),
            rerank=(rerank, Field(False, description=about_rerank)),
        ),
        create_model(
            "EmbeddingsRequest",
            __base__=EmbeddingsRequest,
            input=(texts, ...),
            dimensions=(Annotated[int, Field(ge=dim, le=dim)] | None, None),
        ),
        create_model("PutRequest", __base__=PutRequest, passages=(several(put), ...)),
        create_model("DeleteRequest", __base__=DeleteRequest, ids=(several(Id), ...)),
        create_model("ReleaseRequest", __base__=ReleaseRequest, ids=(several(Id), ...)),
    )
