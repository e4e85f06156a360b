"""Trains the demonstration model on generated text, on the CPU.

    python models/training/train.py --out models/demo

Each process (--processes) trains on its own stream of documents; gradients are
averaged over the processes at every step. The learning rate follows the share
of the steps done, or of the time gone (--minutes) where that is more, so that a
slow machine ends in time with a complete schedule.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
import transformers
from corpus import documents
from model import CONTEXT, END_OF_TEXT_ID, TURN_END_ID, new_model, write_model
from tokenizer import train_tokenizer, write_tokenizer
from tokenizers import Tokenizer

ROW_LENGTH = 256
TOKENS_PER_STEP = 4096
# The last part of the training sees rows of the full context.
LONG_ROWS_FROM = 0.9
PEAK_RATE, FINAL_RATE, WARMUP_STEPS = 2.5e-3, 1e-4, 100
WEIGHT_DECAY = 0.05
# Weight of the load-balancing loss: enough to keep every expert in use over a
# mixed batch, too little to spread each kind of text evenly.
BALANCE_WEIGHT = 0.004
VALIDATION_SEED = 1_000_003
SAMPLE_PROMPTS = [
    "Once upon a time there was a",
    "Work out 47 + 38.",
    "Weather report for Oakford, Friday\n",
    "<|im_start|>user\nTell me a story about a fox.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nGive me a recipe for leek soup.<|im_end|>\n<|im_start|>assistant\n",
]


@dataclass
class Settings:
    out: Path
    seed: int
    steps: int
    minutes: float
    processes: int


class Rows:
    """Packs documents into rows that start at a document and end wherever they are full."""

    def __init__(self, tokenizer: Tokenizer, seed: int):
        self.tokenizer = tokenizer
        self.documents = documents(seed)

    def next_row(self, length: int) -> list[int]:
        row = []
        while len(row) < length:
            _, text = next(self.documents)
            row += [*self.tokenizer.encode(text).ids, END_OF_TEXT_ID]
        return row[:length]

    def batch(self, n_rows: int, length: int) -> torch.Tensor:
        """Returns [n_rows, length + 1] token ids: inputs and, shifted by one, targets."""
        return torch.tensor([self.next_row(length + 1) for _ in range(n_rows)])


def balance_loss(router_logits: tuple[torch.Tensor, ...], top_k: int) -> torch.Tensor:
    """Returns the Switch Transformer balance loss, mean over layers; 1 where the load is even."""
    losses = []
    for logits in router_logits:  # [tokens, experts]
        probs = logits.softmax(dim=-1)
        n_experts = probs.shape[-1]
        chosen = F.one_hot(probs.topk(top_k, dim=-1).indices, n_experts).sum(dim=1)
        share = chosen.float().mean(dim=0) / top_k
        losses.append(n_experts * (share * probs.mean(dim=0)).sum())
    return torch.stack(losses).mean()


def losses(model: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the cross entropy per token and the balance loss of a batch."""
    output = model(rows[:, :-1], output_router_logits=True, use_cache=False)
    cross_entropy = F.cross_entropy(output.logits.flatten(0, 1), rows[:, 1:].flatten())
    return cross_entropy, balance_loss(output.router_logits, model.config.num_experts_per_tok)


def learning_rate(step: int, progress: float) -> float:
    """Returns the rate: linear warm-up, then a cosine over the progress from 0 to 1."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (FINAL_RATE + (PEAK_RATE - FINAL_RATE) * cosine)


def average_gradients(model: torch.nn.Module, processes: int) -> None:
    """Averages gradients over processes, as one long vector."""
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def validate(model: torch.nn.Module, rows: torch.Tensor) -> float:
    model.eval()
    loss = sum(losses(model, part)[0].item() for part in rows.split(8)) / len(rows.split(8))
    model.train()
    return loss


@torch.no_grad()
def print_samples(model: torch.nn.Module, tokenizer: Tokenizer) -> None:
    model.eval()
    for prompt in SAMPLE_PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=70, do_sample=False,
            eos_token_id=[END_OF_TEXT_ID, TURN_END_ID], pad_token_id=END_OF_TEXT_ID,
        )
        print("  |", repr(tokenizer.decode(output[0, ids.shape[1]:].tolist())), flush=True)
    model.train()


def optimizer_for(model: torch.nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)


def same_progress(progress: float) -> float:
    """Returns the progress of the first process, so that all use the same rate and stop together."""
    shared = torch.tensor([progress], dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.item()


def train(rank: int, settings: Settings) -> None:
    """Runs one of the training processes; the first one reports, validates and writes."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dist.init_process_group(
        "gloo", init_method=f"file://{settings.out.resolve()}/.rendezvous", rank=rank, world_size=settings.processes
    )
    tokenizer = Tokenizer.from_file(str(settings.out / "tokenizer.json"))
    rows = Rows(tokenizer, settings.seed * 1000 + 1 + rank)
    validation = Rows(tokenizer, VALIDATION_SEED).batch(32, ROW_LENGTH)
    model = new_model(settings.seed).train()
    optimizer = optimizer_for(model)
    tokens_here = TOKENS_PER_STEP // settings.processes

    start = time.monotonic()
    step, progress = 0, 0.0
    running = None
    while progress < 1.0:
        length = CONTEXT if progress >= LONG_ROWS_FROM else ROW_LENGTH
        cross_entropy, balance = losses(model, rows.batch(tokens_here // length, length))
        (cross_entropy + BALANCE_WEIGHT * balance).backward()
        average_gradients(model, settings.processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

        loss = cross_entropy.item()
        running = loss if running is None else 0.98 * running + 0.02 * loss
        if rank == 0 and step % 50 == 0:
            minutes = (time.monotonic() - start) / 60
            print(
                f"step {step} progress {progress:.3f} loss {loss:.4f} smoothed {running:.4f} "
                f"balance {balance.item():.3f} tokens {(step + 1) * TOKENS_PER_STEP} minutes {minutes:.1f}",
                flush=True,
            )
        if rank == 0 and (step % 300 == 0 or step == 100):
            print(f"  validation {validate(model, validation):.4f}", flush=True)
            if step:
                print_samples(model, tokenizer)
        step += 1
        elapsed = (time.monotonic() - start) / 60
        progress = same_progress(max(step / settings.steps, elapsed / settings.minutes))

    if rank == 0:
        print(f"end: steps {step} tokens {step * TOKENS_PER_STEP} smoothed {running:.4f} minutes {elapsed:.1f}")
        print(f"  validation {validate(model, validation):.4f}", flush=True)
        write_model(model, settings.out)
        print_samples(model, tokenizer)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--minutes", type=float, default=30.0, help="upper limit of the training time")
    parser.add_argument("--processes", type=int, default=2)
    settings = Settings(**vars(parser.parse_args()))

    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / ".rendezvous").unlink(missing_ok=True)
    write_tokenizer(train_tokenizer(settings.seed), settings.out)
    torch.multiprocessing.spawn(train, args=(settings,), nprocs=settings.processes)
    (settings.out / ".rendezvous").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
