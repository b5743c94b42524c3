"""How much memory a fine-tuning trial takes, by closed-form arithmetic. In: a study, shapes of its models. Out: bytes. No torch.

Weights, gradients and AdamW's two moments are in fp32 (16 bytes a parameter) and split over the ranks. On top comes what a step
computes: the tensors that autograd keeps as our layers run. (The last layer keeps less and is counted whole.) Tests compare
parameters with the meta device, kept tensors with what autograd keeps of fake tensors, both at the real sizes, and the sum with a
real trial's peak.

Symbols: hidden H, feed-forward F, h heads, N tokens of a step on one rank, in sequences of T.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.gpu.footprint import footprint
from xlmr_sweep.study.recipes import FinetuneSpec

ASSUMED_ROWS = 32_768
"""Embedding rows assumed for a task whose texts are not at hand: more than its English texts are expected to use.
A record holds the real number (`resolved.vocabulary_kept`)."""

GPU_BYTES = 80e9
"""Memory of the GPU that a dry run assumes (H100, A100: 80 GB)."""

GPU_RESERVE = 4e9
"""Bytes of a GPU that are not the trial's: context, communication buffers, fragmentation. Assumed."""

GATHERED_BYTES = 8.0
"""Bytes a parameter of gathered weights and whole gradients. A rank of a sharded model with room for them keeps the weights from
forward to backward, and the gradients between micro-batches: that saves one gather and all but one reduction."""

CPU_GATHERED_BYTES = 16e9
"""The bytes that a rank on CPUs is taken to have for these, on any machine: they decide the order of sums, which must not
change."""

PROCESS_BYTES = 355e6
"""Memory of a CPU process without its trials: Python, torch and transformers (338 MB), and what torch allocates at the first
product (17 MB). Measured on Linux x86-64."""

HEAP_SHARE = 1.1
"""Memory that a CPU process holds, in units of what it uses: freed pieces stay with it (measured with glibc: 1.01 to 1.08 for
15 M parameters, 1.13 for XLM-R base)."""

CPU_INFO = Path("/proc/cpuinfo")

BACKWARD_LAYERS = 2
"""What the backward pass of a layer allocates on a CPU, in units of what the layer kept (measured: 1.4 to 1.9)."""


@dataclass(frozen=True)
class TrialMemory:
    """Bytes on one rank (one GPU, or one process on CPUs) at the peak of a trial."""

    states: float
    """Weights, gradients and moments."""
    gathered: float
    """Weights of other ranks, and copies in bf16, that a step holds."""
    computed: float
    """What the step computes and keeps for the backward pass."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.states + self.gathered + self.computed


def compacted(shape: Architecture, rows: int) -> Architecture:
    """Returns the shape of the model that holds only this many embedding rows."""
    return replace(shape, vocabulary=min(rows, shape.vocabulary))


def trial_memory(
    shape: Architecture,
    finetune: FinetuneSpec,
    *,
    precision: str,
    num_ranks: int = 1,
    on_gpu: bool = True,
    dropout: bool = True,
    gpu_bytes: float = GPU_BYTES,
) -> TrialMemory:
    """Returns the memory of one rank, for inputs of `finetune.max_length` tokens.

    Args:
        shape: shape of the model as it is trained (`compacted`).
        finetune: batch size and length.
        precision: `bf16` or `fp32`.
        num_ranks: over which the model is spread.
        on_gpu: True for fused attention, which keeps no scores. False for a CPU.
        dropout: whether masks of it are kept.
        gpu_bytes: memory of each GPU.
    """
    total = shape.num_parameters
    length = finetune.max_length
    tokens = -(-finetune.batch_size // num_ranks) * length
    width = 2 if precision == "bf16" else 4
    layer = shape.layer_parameters
    rest = total - (shape.num_own_layers or shape.num_layers) * layer
    gathered = 0.0
    each = tokens * token_bytes(shape, precision, length, on_gpu=on_gpu, dropout=dropout)
    if num_ranks > 1:
        # Weights, and gradients in fp32. Of a large model embeddings and head stay gathered, and two layers: one computes while
        # the next arrives. Embeddings and head are always in fp32.
        is_kept = keeps_gathered(total, num_ranks, shape.num_layers * each, gpu_bytes if on_gpu else None)
        layers = shape.num_layers if is_kept else 2
        gathered = (width + 4.0) * layers * layer + 8.0 * rest
    elif precision == "bf16":
        # Autocast keeps a bf16 copy of each product's weights for the backward pass.
        gathered = 2.0 * shape.num_layers * layer
    if not shape.is_fast:
        # Logits of all tokens and their gradient.
        gathered += 8.0 * tokens * shape.vocabulary
    if on_gpu:
        return TrialMemory(16.0 * total / num_ranks, gathered, shape.num_layers * each)
    if precision == "fp32" and not shape.pre_norm:
        gathered += 12.0 * shape.num_layers * shape.hidden**2  # Query, key and value as one matrix.
    # The peak is at the start of the backward pass (all kept tensors, no gradients) or at its end (the reverse).
    computed = max((shape.num_layers + BACKWARD_LAYERS) * each, 4.0 * total / num_ranks - gathered)
    return TrialMemory(12.0 * total / num_ranks, gathered, computed)


def keeps_gathered(num_parameters: float, num_ranks: int, step_bytes: float, gpu_bytes: float | None) -> bool:
    """Returns whether a rank of a sharded model keeps gathered weights and whole gradients for the length of a step.

    Args:
        num_parameters: number of the model's parameters.
        num_ranks: over which it is spread.
        step_bytes: what a pass keeps for its backward pass.
        gpu_bytes: memory of the rank's card, or None on CPUs.
    """
    gathered = GATHERED_BYTES * num_parameters
    if gpu_bytes is None:
        return gathered <= CPU_GATHERED_BYTES
    return 16.0 * num_parameters / num_ranks + step_bytes + gathered <= gpu_bytes - GPU_RESERVE


def process_bytes(shape: Architecture, memory: TrialMemory, num_evaluation_tokens: int) -> float:
    """Returns the peak of a CPU process's own memory, for trials one after the other of one model.

    Args:
        shape: shape of the model as it is trained.
        memory: memory of its trial on this rank.
        num_evaluation_tokens: tokens of its largest evaluation batch.
    """
    evaluation = 4.0 * shape.num_parameters + evaluation_bytes(shape, num_evaluation_tokens)
    return PROCESS_BYTES + HEAP_SHARE * max(memory.total, evaluation)


def evaluation_bytes(shape: Architecture, num_tokens: int) -> float:
    """Returns the bytes that a CPU computes at once in an evaluation batch: a layer's tensors in fp32, or all logits."""
    return num_tokens * 4.0 * max(12 * shape.hidden + 2 * shape.ffn, 0 if shape.is_fast else shape.vocabulary)


def token_bytes(shape: Architecture, precision: str, length: int, *, on_gpu: bool = True, dropout: bool = True) -> float:
    """Returns the bytes that one layer keeps of one token from the forward to the backward pass.

    On a CPU the attention's weights are kept too: `length` for each head.
    """
    # A gate doubles what the feed-forward part keeps: its own product, and what it lets through.
    h, f = shape.hidden, shape.ffn * (2 if shape.gated else 1)
    scores = 0 if on_gpu else shape.num_heads * length
    # A pre-norm layer drops nothing after its feed-forward products.
    masks = (1 if shape.pre_norm else 2) * h + scores if dropout else 0
    if precision == "bf16":
        # In bytes a number of H: three casts of the input of query, key and value 6; query, key and value 6; attended values 2;
        # inputs of two norms in fp32 8; the cast before the feed-forward product 2. On a GPU the padded attended values add 2.
        # In bytes a number of F: before and after the activation 4.
        return (26.0 if on_gpu else 24.0) * h + 4.0 * f + 2.0 * scores + masks
    # Eight times H numbers. Five are, post-norm: the input, the attended values, two sums, and the state between the halves;
    # pre-norm: inputs and outputs of two norms, and the attended values. Query, key and value are the other three.
    return 4.0 * (8 * h + 2 * f + scores) + masks


def gpus_needed(shape: Architecture, finetune: FinetuneSpec, precision: str, gpu_bytes: float = GPU_BYTES) -> int | None:
    """Returns the fewest GPUs on which a trial of a (compacted) shape fits; None where 16 are too few."""
    for number in (1, 2, 4, 8, 16):
        if gpu_bytes_needed(shape, finetune, precision, number, gpu_bytes) <= gpu_bytes - GPU_RESERVE:
            return number
    return None


def gpu_bytes_needed(
    shape: Architecture, finetune: FinetuneSpec, precision: str, num_ranks: int, gpu_bytes: float = GPU_BYTES
) -> float:
    """Returns what a trial of a (compacted) shape takes of each of its GPUs, for inputs of `finetune.max_length` tokens."""
    if takes_static_step(shape, precision, num_ranks):
        return footprint(shape, finetune.batch_size * finetune.max_length, finetune.eval_tokens).total
    return trial_memory(shape, finetune, precision=precision, num_ranks=num_ranks, gpu_bytes=gpu_bytes).total


def takes_static_step(shape: Architecture, precision: str, num_ranks: int) -> bool:
    """Returns whether trials on GPUs train by the static step (modeling/gpu)."""
    return num_ranks == 1 and precision == "bf16" and shape.is_static


def cpu_has_bf16() -> bool:
    """Returns whether this machine's CPU multiplies bf16 matrices itself, as `modeling.device.resolve_precision` asks torch."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "amx_tile" in flags or "avx512_bf16" in flags
