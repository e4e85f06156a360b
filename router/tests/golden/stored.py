"""How quantised checkpoints store a matrix: what is written, and the float32 values that it stands for.

A format has `store(weight)`, which returns tensors by what stands in their names instead of `weight`;
`restore(tensors)`, the values that they stand for; and `config`, the `quantization_config` that says so.
Weights are [outputs, inputs].
"""

from dataclasses import dataclass

import torch

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Fp8:
    """E4M3 with a scale for each block of rows and columns."""

    block: tuple[int, int]

    @property
    def config(self) -> dict:
        return {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": list(self.block),
        }

    def store(self, weight: torch.Tensor) -> dict:
        rows, columns = (-(-size // of) for size, of in zip(weight.shape, self.block))
        padded = torch.zeros(rows * self.block[0], columns * self.block[1])
        padded[: weight.shape[0], : weight.shape[1]] = weight
        blocks = padded.view(rows, self.block[0], columns, self.block[1])
        largest = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-12)
        scales = largest / torch.finfo(torch.float8_e4m3fn).max
        values = (blocks / scales[:, None, :, None]).view(padded.shape)
        values = values[: weight.shape[0], : weight.shape[1]].to(torch.float8_e4m3fn)
        return {"weight": values, "weight_scale_inv": scales}

    def restore(self, tensors: dict) -> torch.Tensor:
        values, scales = tensors["weight"], tensors["weight_scale_inv"]
        of_rows = scales.repeat_interleave(self.block[0], 0)[: values.shape[0]]
        of_columns = of_rows.repeat_interleave(self.block[1], 1)[:, : values.shape[1]]
        return values.float() * of_columns


def integers(weight: torch.Tensor, groups: torch.Tensor, bits: int) -> tuple:
    """Returns unsigned integers [outputs, inputs], and scales in float16 and zeros [outputs, groups].

    The smallest and the largest weight of a group are the smallest and the largest integer.
    """
    top = 2**bits - 1
    scales, zeros = [], []
    for group in range(int(groups.max()) + 1):
        of_group = weight[:, groups == group]
        low, high = of_group.amin(1).clamp(max=0), of_group.amax(1).clamp(min=0)
        scale = ((high - low) / top).clamp(min=1e-4).half()
        scales.append(scale)
        # A zero of 0 has no place in GPTQ, which stores one less.
        zeros.append((-low / scale.float()).round().clamp(1, top))
    scales, zeros = torch.stack(scales, 1), torch.stack(zeros, 1).int()
    values = (weight / scales.float()[:, groups] + zeros[:, groups]).round().clamp(0, top)
    return values.int(), scales, zeros


def words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs integers along the last dimension into words of 32 bits, the first one lowest."""
    per_word = 32 // bits
    missing = -values.shape[-1] % per_word
    padded = torch.nn.functional.pad(values.long(), (0, missing))
    parts = padded.view(*values.shape[:-1], -1, per_word) << (bits * torch.arange(per_word))
    packed = parts.sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Takes apart what `words` has packed: so many integers along the last dimension."""
    shifts = bits * torch.arange(32 // bits)
    values = packed.long()[..., None] >> shifts & (2**bits - 1)
    return values.flatten(-2)[..., :count].int()


def scaled(values: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, groups) -> torch.Tensor:
    return (values - zeros[:, groups]).float() * scales.float()[:, groups]


def in_order(inputs: int, size: int) -> torch.Tensor:
    """The group of each input, one after another."""
    return torch.arange(inputs, dtype=torch.int32) // size


@dataclass
class Gptq:
    """Four bits, zeros less one, and inputs in groups that are no neighbours (`desc_act`)."""

    group: int

    @property
    def config(self) -> dict:
        return {
            "bits": 4, "checkpoint_format": "gptq", "desc_act": True, "group_size": self.group,
            "quant_method": "gptq", "sym": False,
        }

    def store(self, weight: torch.Tensor) -> dict:
        # Some order that is not that of the inputs.
        groups = in_order(weight.shape[1], self.group).flip(0).roll(3)
        values, scales, zeros = integers(weight, groups, 4)
        return {
            "g_idx": groups, "scales": scales.T.contiguous(),
            "qweight": words(values, 4).T.contiguous(),
            "qzeros": words((zeros - 1).T.contiguous(), 4),
        }

    def restore(self, tensors: dict) -> torch.Tensor:
        groups, scales = tensors["g_idx"], tensors["scales"].T
        values = unpack(tensors["qweight"].T, 4, len(groups))
        zeros = unpack(tensors["qzeros"], 4, scales.shape[0]).T + 1
        return scaled(values, zeros, scales, groups)


@dataclass
class Awq:
    """Four bits, outputs packed with the even ones first."""

    group: int

    @property
    def config(self) -> dict:
        return {
            "bits": 4, "group_size": self.group, "modules_to_not_convert": ["gate"],
            "quant_method": "awq", "version": "gemm", "zero_point": True,
        }

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        return words(values.view(len(values), -1, 8)[:, :, AWQ_ORDER].flatten(1), 4)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        places = [AWQ_ORDER.index(output) for output in range(8)]
        values = unpack(packed, 4, 8 * packed.shape[1])
        return values.view(len(packed), -1, 8)[:, :, places].flatten(1)

    def store(self, weight: torch.Tensor) -> dict:
        values, scales, zeros = integers(weight, in_order(weight.shape[1], self.group), 4)
        return {
            "qweight": self.pack(values.T.contiguous()), "scales": scales.T.contiguous(),
            "qzeros": self.pack(zeros.T.contiguous()),
        }

    def restore(self, tensors: dict) -> torch.Tensor:
        values, zeros = (self.unpack(tensors[name]).T for name in ("qweight", "qzeros"))
        groups = in_order(values.shape[1], self.group)
        return scaled(values, zeros, tensors["scales"].T, groups)


@dataclass
class CompressedTensors:
    """`pack-quantized` with four bits, or `int-quantized` with eight; symmetric, scales in bfloat16."""

    bits: int
    group: int | None

    @property
    def config(self) -> dict:
        weights = {
            "actorder": None, "dynamic": False, "group_size": self.group, "num_bits": self.bits,
            "strategy": "channel" if self.group is None else "group", "symmetric": True, "type": "int",
        }
        activations = {"dynamic": True, "num_bits": 8, "strategy": "token", "type": "int"}
        group = {
            "input_activations": activations if self.bits == 8 else None,
            "targets": ["Linear"], "weights": weights,
        }
        return {
            "config_groups": {"group_0": group},
            "format": "pack-quantized" if self.bits == 4 else "int-quantized",
            "ignore": ["lm_head", "re:.*mlp.gate$"], "quant_method": "compressed-tensors",
        }

    def store(self, weight: torch.Tensor) -> dict:
        middle = 2 ** (self.bits - 1)
        groups = in_order(weight.shape[1], self.group or weight.shape[1])
        of_groups = [weight[:, groups == n].abs().amax(1) for n in range(int(groups.max()) + 1)]
        scales = (torch.stack(of_groups, 1) / (middle - 0.5)).clamp(min=1e-4).bfloat16()
        values = (weight / scales.float()[:, groups]).round().clamp(-middle, middle - 1)
        if self.bits == 8:
            return {"weight": values.to(torch.int8), "weight_scale": scales}
        return {
            "weight_packed": words(values + middle, 4), "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
        }

    def restore(self, tensors: dict) -> torch.Tensor:
        if self.bits == 8:
            values = tensors["weight"].int()
        else:
            values = unpack(tensors["weight_packed"], 4, int(tensors["weight_shape"][1])) - 8
        groups = in_order(values.shape[1], self.group or values.shape[1])
        scales = tensors["weight_scale"]
        return scaled(values, torch.zeros_like(scales, dtype=torch.int32), scales, groups)
