"""Models of the bodies of reranking requests, in the formats of two families of clients.

`RerankTexts` is the format of text-embeddings-inference, `RerankDocuments` the format of Cohere and Jina.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, create_model

from jaxretr.serve.options import ServiceOptions
from jaxretr.serve.requests import Request, Text, expecting, limited_list, limited_text


class RerankTexts(Request):
    """Texts to score for a query, in the format of text-embeddings-inference."""

    query: Text
    texts: list[Text]
    raw_scores: bool = Field(False, description="return logits, instead of their sigmoid")
    return_text: bool = Field(False, description="return the texts, too")
    truncate: bool = Field(True, description="truncate pairs that are too long, instead of refusing the request")
    truncation_direction: Literal["right", "Right"] = Field("right", description="truncation keeps the beginning")


class DocumentToRank(Request):
    """A document as an object."""

    text: Text


class RerankDocuments(Request):
    """Documents to score for a query, in the format of Cohere and Jina."""

    query: Text
    documents: list[Text | DocumentToRank]
    model: str | None = Field(None, description="name of the reranker that the service serves")
    top_n: int | None = Field(None, ge=1, description="maximum number of results; null for all")
    return_documents: bool = Field(False, description="return the texts of the documents, too")

    @property
    def texts(self) -> list[str]:
        return [document.text if isinstance(document, DocumentToRank) else document for document in self.documents]


class RerankRequests(NamedTuple):
    """The request models with the limits of one service."""

    texts: type[RerankTexts]
    documents: type[RerankDocuments]


def rerank_requests(options: ServiceOptions) -> RerankRequests:
    """Return the models above with the limits of a service, in validation and in the OpenAPI description."""
    query: Any = limited_text(options, pattern=r"\S")
    text: Any = limited_text(options)
    document: Any = create_model("DocumentToRank", __base__=DocumentToRank, text=(text, ...))
    most = f"of at most {options.max_text_characters} characters"
    either = Annotated[text | document, expecting(f"a text {most}, or an object with such a text as its field text")]
    return RerankRequests(
        create_model("RerankTexts", __base__=RerankTexts, query=(query, ...), texts=(limited_list(options, text), ...)),
        create_model(
            "RerankDocuments",
            __base__=RerankDocuments,
            query=(query, ...),
            documents=(limited_list(options, either), ...),
        ),
    )
