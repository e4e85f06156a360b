"""Trains the demonstration model on generated text, on the CPU.

    python models/training/train.py --out models/demo
    python models/training/train.py --out models/demo --resume     # after a stop

Each process (--processes) trains on documents of its own; gradients are averaged
over the processes at every step. What a step trains on and the learning rate
follow from the seed and the step alone, so a training that was stopped and
resumed ends with the same weights. While the rate is still at its peak, a
training may also be resumed with another --steps.
"""

import argparse
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

ROW_LENGTH = 512
TOKENS_PER_STEP = 4096
# The last part of the steps sees rows of the full context.
LONG_ROWS_FROM = 0.9
PEAK_RATE, FINAL_RATE, WARMUP_STEPS = 2.2e-3, 5e-5, 100
# The steps with which the second and third stage of the corpus begin.
STAGE_STARTS = (1700, 2700)
# Share of the steps after which the rate falls in a line from the peak.
FALL_FROM = 0.55
WEIGHT_DECAY = 0.05
# Weight of the load-balancing loss: enough to keep every expert in use over a
# mixed batch, too little to spread each kind of text evenly.
BALANCE_WEIGHT = 0.004
VALIDATION_SEED = 1_000_003
CHECKPOINT = ".checkpoint"
REPORT_STEPS, CHECKPOINT_STEPS, VALIDATION_STEPS = 50, 100, 300
SAMPLE_PROMPTS = [
    "Once upon a time there was a",
    "Work out 47 + 38.",
    "Weather report for Oakford, Friday\n",
    "<|im_start|>user\nTell me a story about a fox.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nGive me a recipe for leek soup.<|im_end|>\n<|im_start|>assistant\n",
    '<|im_start|>system\nTools: [{"name": "get_weather", "description": "Get the current weather for a city", "parameters": '
    '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]<|im_end|>\n'
    "<|im_start|>user\nWhat is the weather in Oslo?<|im_end|>\n<|im_start|>assistant\n",
]


@dataclass
class Settings:
    out: Path
    seed: int
    steps: int
    processes: int
    resume: bool


class Rows:
    """Packs documents into rows that start at a document and end wherever they are full."""

    def __init__(self, tokenizer: Tokenizer, seed: int | str, stage: int = 0):
        self.tokenizer = tokenizer
        self.documents = documents(seed, stage)

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


def learning_rate(step: int, steps: int) -> float:
    """Returns the rate: a linear warm-up, a level stretch at the peak, and a linear fall."""
    fall = max(0.0, (step / steps - FALL_FROM) / (1 - FALL_FROM))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (PEAK_RATE + (FINAL_RATE - PEAK_RATE) * fall)


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
    loss = sum(losses(model, part)[0].item() for part in rows.split(4)) / len(rows.split(4))
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


@dataclass
class State:
    """All that changes while training."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    # Running mean of the loss.
    smoothed: float | None = None

    def save(self, out: Path) -> None:
        """Writes the model as it is, ready for use, and what else is needed to go on."""
        write_model(self.model, out)
        saved = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "smoothed": self.smoothed,
        }
        torch.save(saved, out / ".checkpoint.new")
        (out / ".checkpoint.new").rename(out / CHECKPOINT)

    def load(self, out: Path) -> None:
        saved = torch.load(out / CHECKPOINT)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.smoothed = saved["step"], saved["smoothed"]


def train_step(state: State, rows: torch.Tensor, settings: Settings) -> str:
    """Takes one step on this process's rows, and returns its numbers in words."""
    cross_entropy, balance = losses(state.model, rows)
    (cross_entropy + BALANCE_WEIGHT * balance).backward()
    average_gradients(state.model, settings.processes)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings.steps)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=False)
    loss = cross_entropy.item()
    state.smoothed = loss if state.smoothed is None else 0.98 * state.smoothed + 0.02 * loss
    return f"loss {loss:.4f} smoothed {state.smoothed:.4f} balance {balance.item():.3f}"


def report(state: State, numbers: str, minutes: float, tokenizer: Tokenizer, validation: torch.Tensor) -> None:
    """Prints the numbers of the step that is just done, now and then with samples."""
    step = state.step - 1
    if step % REPORT_STEPS == 0:
        print(f"step {step} {numbers} tokens {state.step * TOKENS_PER_STEP} minutes {minutes:.1f}", flush=True)
    if step % VALIDATION_STEPS == 0:
        print(f"  validation {validate(state.model, validation):.4f}", flush=True)
        if step:
            print_samples(state.model, tokenizer)


def train(rank: int, settings: Settings) -> None:
    """Runs one of the training processes; the first one reports, validates and writes."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    out = settings.out
    dist.init_process_group("gloo", init_method=f"file://{out.resolve()}/.rendezvous", rank=rank, world_size=settings.processes)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    validation = Rows(tokenizer, VALIDATION_SEED).batch(16, ROW_LENGTH)
    model = new_model(settings.seed).train()
    state = State(model, optimizer_for(model))
    if settings.resume:
        state.load(out)

    start = time.monotonic()
    while state.step < settings.steps:
        length = CONTEXT if state.step >= LONG_ROWS_FROM * settings.steps else ROW_LENGTH
        seed = f"seed {settings.seed}, process {rank}, step {state.step}"
        rows = Rows(tokenizer, seed, stage=sum(state.step >= start for start in STAGE_STARTS))
        numbers = train_step(state, rows.batch(TOKENS_PER_STEP // settings.processes // length, length), settings)
        state.step += 1
        if rank == 0:
            report(state, numbers, (time.monotonic() - start) / 60, tokenizer, validation)
            if state.step % CHECKPOINT_STEPS == 0:
                state.save(out)

    if rank == 0:
        print(f"end: step {state.step} smoothed {state.smoothed:.4f} minutes {(time.monotonic() - start) / 60:.1f}")
        print(f"  validation {validate(model, validation):.4f}", flush=True)
        write_model(model, out)
        (out / CHECKPOINT).unlink(missing_ok=True)
        print_samples(model, tokenizer)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3420)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    settings = Settings(**vars(parser.parse_args()))

    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / ".rendezvous").unlink(missing_ok=True)
    if not settings.resume:
        write_tokenizer(train_tokenizer(settings.seed), settings.out)
    torch.multiprocessing.spawn(train, args=(settings,), nprocs=settings.processes)
    (settings.out / ".rendezvous").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
