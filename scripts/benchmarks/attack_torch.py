"""PyTorch side of `scripts/benchmark.py attack`: corpus poisoning on the same weights from the same start.

Communicates in JSON lines. Input: which program and which position to run. Output: wall and CPU seconds of one HotFlip
iteration and the objective of the best candidate. Needs torch and transformers, and nothing of jaxretr. Follows the
description in Zhong et al. (2023), arXiv 2310.19156.

- loop: like the published programs. Every iteration encodes the queries again and scores candidates one by one, and
  each forward pass records what a backward pass would need.
- batched: encodes the queries once; scores all candidates in one batch without gradients; the objective is the
  similarity to the mean query.
"""

import json
import sys
import time

import numpy as np
import torch
from transformers import AutoModel


def main(model_directory: str, file: str, candidates: int) -> None:
    made = np.load(file)
    model = AutoModel.from_pretrained(model_directory, dtype=torch.float32).eval()
    words = model.get_input_embeddings()
    kept = {}
    words.register_forward_hook(lambda module, given, out: kept.update(embeds=out))
    passage, slots = torch.tensor(made["passage"]), torch.tensor(made["slots"])
    query_ids, query_mask = torch.tensor(made["query_ids"]), torch.tensor(made["query_mask"])
    forbidden = torch.tensor(~made["allowed"])

    def encode(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(pooled, dim=1)

    def encode_passages(ids: torch.Tensor) -> torch.Tensor:
        return encode(ids, torch.ones_like(ids, dtype=torch.bool))

    with torch.no_grad():
        mean_query = encode(query_ids, query_mask).mean(0)

    def proposals(slot: int, loss: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(loss, [kept["embeds"]])
        with torch.no_grad():
            estimates = (words.weight @ gradient[0, slots[slot]]).masked_fill(forbidden, -torch.inf)
        return estimates.topk(candidates).indices

    def loop(slot: int) -> float:
        queries = encode(query_ids, query_mask).detach()
        tokens = proposals(slot, (queries @ encode_passages(passage[None]).T).mean())
        queries = encode(query_ids, query_mask).detach()  # the published programs encode them twice, too
        scores = []
        for token in tokens:
            candidate = passage.clone()
            candidate[slots[slot]] = token
            scores.append((queries @ encode_passages(candidate[None]).T).mean().item())
        return max(scores)

    def batched(slot: int) -> float:
        tokens = proposals(slot, encode_passages(passage[None])[0] @ mean_query)
        replaced = passage.repeat(len(tokens), 1)
        replaced[:, slots[slot]] = tokens
        with torch.inference_mode():
            return (encode_passages(replaced) @ mean_query).max().item()

    for line in sys.stdin:
        asked = json.loads(line)
        began, cpu_began = time.perf_counter(), time.process_time()
        best = {"loop": loop, "batched": batched}[asked["side"]](asked["slot"])
        seconds = time.perf_counter() - began, time.process_time() - cpu_began
        print(json.dumps({"seconds": seconds, "best": best}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
