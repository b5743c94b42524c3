"""One row a model family says all that is known of it. Every other place of the project looks here. Imports no torch.

In: a model type, as `config.json` names it. Out: its `ModelFamily`. A type without a row gets one with all
defaults: its models train the plain, padded way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

HeadTransform = Literal["dense, gelu, norm", "predictions.transform", "head", "nothing"]
"""How a masked-LM head turns a hidden state into the input of the output projection; `encoder.py` computes it."""

LayerKind = Literal["bert", "modernbert", "eurobert", "gte"]
"""How the weights of a family's layers are named and shaped; `weight_names.py` writes them out."""


@dataclass(frozen=True)
class ModelFamily:
    """What a model family must say of itself.

    Only `model_type` is needed. Each further field opens one optimisation or check to the family, and each is held by a test
    against transformers' own model of that type: tests/modeling/test_families.py and test_encoder.py run over all rows.
    """

    model_type: str
    """The `model_type` of its `config.json`."""

    title: str = ""
    """Its name for readers. Types of one name are one family in the report, as XLM-R in its sizes is."""

    head_transform: HeadTransform | None = None
    """What stands between the last hidden state and the output projection. With it the family takes the fast path: sequences
    without padding, a compact vocabulary, logits of label words alone. None: batches are padded and all logits computed."""

    layers: LayerKind = "bert"
    """How the weights of its layers are named. Only families with a fast path are asked."""

    head_prefixes: tuple[str, ...] = ()
    """How the names of the masked-LM head's weights begin."""

    encoder_prefix: str = ""
    """How the names of the encoder's weights begin, without the dot."""

    embedding: str = "word_embeddings.weight"
    """How the name of the word embeddings ends."""

    output_weights: tuple[str, ...] = ()
    """How names of the head's weights with one row per token end. A compact vocabulary keeps rows of these and `embedding`."""

    counts_positions_from_padding: bool = False
    """Whether the first token has the position `pad_token_id + 1` (RoBERTa and models made from it). Such a model takes that many
    tokens fewer than it has positions, and a compact vocabulary keeps all tokens up to the padding token, so that it keeps its
    id."""

    fixed_padding: int | None = None
    """The padding token's id from which positions are counted, whatever the configuration says. None: the configuration's."""

    separates_twice: bool = False
    """Whether two texts have two separators between them, and no types (RoBERTa and models made from it). Otherwise BERT's way:
    one separator, and the second text is of type 1. Asked only where a tokenizer has no rule of its own."""

    head_dropout: tuple[str, ...] = ("classifier_dropout", "hidden_dropout_prob")
    """Settings that give the dropout probability of a classification head. The first that is set counts."""

    size_names: Mapping[str, str] = field(default_factory=dict)
    """Its own names of sizes in `config.json`, by the usual ones."""

    is_gated: bool = False
    """Whether the feed-forward part has a gate: three products in place of two."""

    discriminator: str = ""
    """How the names of weights begin that only its discriminators have. A discriminator learned to find replaced tokens and has
    no trained masked-LM head, so it cannot be prompted."""

    native_type: str = ""
    """The type of transformers' own that computes the same. Models of this type come with code, which is never run."""

    is_pre_norm: bool = False
    """Whether a layer's normalisations stand before its products and not after its sums. Such a layer keeps less for the backward
    pass."""

    narrows_last_layer: bool = False
    """Whether the last layer has BERT's parts, so that it can compute only what the head reads (`last_layer.py`)."""

    has_cpu_layer: bool = False
    """Whether all layers are BERT's, so that a CPU runs them as one step of autograd each (`cpu/layer.py`)."""

    has_static_step: bool = False
    """Whether a GPU runs a whole fine-tuning step as one recorded graph (`gpu/`). Layers are written out there by their kind."""

    first_layer_lacks: tuple[str, ...] = ()
    """Weights that all layers but the first have."""

    takes_masks_by_layer_type: bool = False
    """Whether the encoder takes a mapping of masks, one a type of layer (full, sliding), and otherwise makes them itself."""

    has_our_classification_head: bool = False
    """Whether transformers' classification head has the shape and names of ours, so that a `baseline` trial's weights load as
    `AutoModelForSequenceClassification`."""

    @property
    def has_fast_path(self) -> bool:
        """Whether trials compute unpadded sequences on a compact vocabulary, with logits of label words alone."""
        return self.head_transform is not None

    @property
    def vocabulary_weights(self) -> tuple[str, ...]:
        """How the names of all weights with one row per token end."""
        return (self.embedding, *self.output_weights)


def _like_roberta(model_type: str, **more: Any) -> ModelFamily:
    known: dict[str, Any] = {
        "head_transform": "dense, gelu, norm",
        "head_prefixes": ("lm_head.",),
        "encoder_prefix": "roberta",
        "output_weights": ("decoder.weight", "lm_head.bias", "decoder.bias"),
        "counts_positions_from_padding": True,
        "separates_twice": True,
        "narrows_last_layer": True,
        "has_cpu_layer": True,
        "has_static_step": True,
        "has_our_classification_head": True,
    }
    return ModelFamily(model_type, **(known | more))


_ROWS = (
    ModelFamily(
        "bert",
        title="BERT",
        head_transform="predictions.transform",
        head_prefixes=("cls.",),
        encoder_prefix="bert",
        output_weights=("decoder.weight", "predictions.bias", "decoder.bias"),
        narrows_last_layer=True,
        has_cpu_layer=True,
        has_static_step=True,
    ),
    # ModernBERT, Ettin and mmBERT.
    ModelFamily(
        "modernbert",
        title="ModernBERT",
        head_transform="head",
        layers="modernbert",
        head_prefixes=("head.", "decoder."),
        encoder_prefix="model",
        embedding="tok_embeddings.weight",
        output_weights=("decoder.weight", "decoder.bias"),
        is_gated=True,
        is_pre_norm=True,
        has_static_step=True,
        first_layer_lacks=("attn_norm.weight",),
        takes_masks_by_layer_type=True,
    ),
    ModelFamily(
        "eurobert",
        title="EuroBERT",
        head_transform="nothing",
        layers="eurobert",
        head_prefixes=("lm_head.",),
        encoder_prefix="model",
        embedding="embed_tokens.weight",
        output_weights=("lm_head.weight", "lm_head.bias"),
        is_gated=True,
        is_pre_norm=True,
        has_static_step=True,
    ),
    ModelFamily(
        "gte",
        title="gte",
        head_transform="dense, gelu, norm",
        layers="gte",
        head_prefixes=("lm_head.",),
        encoder_prefix="gte",
        output_weights=("decoder.weight", "decoder.bias"),
        separates_twice=True,
        is_gated=True,
        has_static_step=True,
    ),
    _like_roberta("camembert", title="CamemBERT"),
    _like_roberta("roberta", title="RoBERTa"),
    # XLM-R, XLM-V and Glot500.
    _like_roberta("xlm-roberta", title="XLM-R"),
    _like_roberta("xlm-roberta-xl", title="XLM-R", is_pre_norm=True, has_cpu_layer=False),
    # Without a fast path.
    ModelFamily("albert", title="ALBERT", head_dropout=("classifier_dropout_prob", "hidden_dropout_prob")),
    ModelFamily(
        "distilbert",
        title="DistilBERT",
        head_dropout=("seq_classif_dropout", "dropout"),
        size_names={
            "hidden_size": "dim",
            "intermediate_size": "hidden_dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
        },
    ),
    ModelFamily("electra", title="ELECTRA", discriminator="discriminator_predictions."),
    ModelFamily("mpnet", title="MPNet", counts_positions_from_padding=True, fixed_padding=1, separates_twice=True),
    *(
        ModelFamily(model_type, counts_positions_from_padding=True, separates_twice=True)
        for model_type in ("data2vec-text", "esm", "ibert", "longformer", "luke", "roberta-prelayernorm", "xmod")
    ),
    # Refused, unless a whole masked-LM head was trained for them since.
    ModelFamily("deberta-v2", discriminator="mask_predictions."),
    # Refused: these types want code that comes with the model.
    ModelFamily("new", native_type="gte"),
)

FAMILIES: Mapping[str, ModelFamily] = {row.model_type: row for row in _ROWS}
"""The rows by model type."""


def model_family(config: Any) -> ModelFamily:
    """Returns the family of a model, given its `config.json` as a mapping or its transformers configuration."""
    model_type = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    return FAMILIES.get(str(model_type)) or ModelFamily(str(model_type))


def size_of(config: Mapping[str, Any], name: str) -> Any:
    """Returns a size of a model by its usual name, as `hidden_size`, whatever the family calls it; None where it is not told."""
    return config.get(model_family(config).size_names.get(name, name))


def usable_length(config: Mapping[str, Any]) -> int:
    """Returns the tokens of the longest input of a model, by its `config.json`.

    Raises:
        KeyError: if positions are counted from a padding token that the configuration does not name.
        TypeError: if it names none (null).
    """
    family = model_family(config)
    positions = int(config.get("max_position_embeddings") or 512)
    if not family.counts_positions_from_padding:
        return positions
    return positions - 1 - int(config["pad_token_id"] if family.fixed_padding is None else family.fixed_padding)
