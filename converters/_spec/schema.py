"""The layers of a description: their types, and the keys that each may have."""

from __future__ import annotations

from dataclasses import dataclass

from converters._keras.activations import FUNCTIONS

__all__ = ["COMMON", "LAYERS", "Kind"]

# Keys of every layer.
COMMON = ("name", "type", "inputs", "noise", "prior", "frozen", "weights")
_CONV = ("strides", "padding", "data_format", "dilation_rate", "activation", "use_bias")
_SPACE = ("data_format",)
_STEPS = ("activation", "use_bias", "return_sequences", "go_backwards")


@dataclass(frozen=True)
class Kind:
    """A type of layer.

    keras: the class of Keras that it means; {} stands for the number of spatial axes.
    needs, takes: keys that it must and may have, named as in Keras.
    inputs: how many it reads: 1, or 2 for two or more.
    """

    keras: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    inputs: int = 1


LAYERS: dict[str, Kind] = {
    "dense": Kind("Dense", ("units",), ("activation", "use_bias")),
    "embedding": Kind("Embedding", ("input_dim", "output_dim")),
    "conv": Kind("Conv{}D", ("filters", "kernel_size"), (*_CONV, "groups")),
    "conv_transpose": Kind("Conv{}DTranspose", ("filters", "kernel_size"), (*_CONV, "output_padding")),
    "depthwise_conv": Kind("DepthwiseConv{}D", ("kernel_size",), (*_CONV, "depth_multiplier")),
    "separable_conv": Kind("SeparableConv{}D", ("filters", "kernel_size"), (*_CONV, "depth_multiplier")),
    "max_pooling": Kind("MaxPooling{}D", ("pool_size",), ("strides", "padding", *_SPACE)),
    "average_pooling": Kind("AveragePooling{}D", ("pool_size",), ("strides", "padding", *_SPACE)),
    "global_max_pooling": Kind("GlobalMaxPooling{}D", (), ("keepdims", *_SPACE)),
    "global_average_pooling": Kind("GlobalAveragePooling{}D", (), ("keepdims", *_SPACE)),
    "up_sampling": Kind("UpSampling{}D", ("size",), ("interpolation", *_SPACE)),
    "zero_padding": Kind("ZeroPadding{}D", ("padding",), _SPACE),
    "cropping": Kind("Cropping{}D", ("cropping",), _SPACE),
    "batch_normalization": Kind("BatchNormalization", (), ("axis", "epsilon", "center", "scale")),
    "layer_normalization": Kind("LayerNormalization", (), ("axis", "epsilon", "center", "scale")),
    "group_normalization": Kind("GroupNormalization", (), ("groups", "axis", "epsilon", "center", "scale")),
    "rms_normalization": Kind("RMSNormalization", (), ("axis", "epsilon")),
    "unit_normalization": Kind("UnitNormalization", (), ("axis",)),
    "rescaling": Kind("Rescaling", ("scale",), ("offset",)),
    "flatten": Kind("Flatten", (), _SPACE),
    "reshape": Kind("Reshape", ("target_shape",)),
    "permute": Kind("Permute", ("dims",)),
    "repeat_vector": Kind("RepeatVector", ("n",)),
    "dropout": Kind("Dropout", (), ("rate",)),
    "prelu": Kind("PReLU", (), ("shared_axes",)),
    "add": Kind("Add", inputs=2),
    "subtract": Kind("Subtract", inputs=2),
    "multiply": Kind("Multiply", inputs=2),
    "average": Kind("Average", inputs=2),
    "maximum": Kind("Maximum", inputs=2),
    "minimum": Kind("Minimum", inputs=2),
    "concatenate": Kind("Concatenate", (), ("axis",), inputs=2),
    "dot": Kind("Dot", ("axes",), ("normalize",), inputs=2),
    "simple_rnn": Kind("SimpleRNN", ("units",), _STEPS),
    "gru": Kind("GRU", ("units",), (*_STEPS, "recurrent_activation", "reset_after")),
    "lstm": Kind("LSTM", ("units",), (*_STEPS, "recurrent_activation")),
    "attention": Kind(
        "MultiHeadAttention", ("num_heads", "key_dim"), ("value_dim", "use_bias", "output_shape"), inputs=2
    ),
}
# A layer of an activation function's name is that function.
LAYERS |= {name: Kind("Activation") for name in FUNCTIONS}
