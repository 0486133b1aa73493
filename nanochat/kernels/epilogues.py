# pyright: reportMissingImports=false
"""What QuACK's products do with a tile of results before it leaves the chip. Imported only where QuACK is installed.

Each function runs once per element: `acc` is the product in fp32, `c` an element of a tensor of the product's shape;
the others are numbers or have one value per row. D is the product's own output, other names are further ones.
"""

import cutlass.cute as cute
from quack.activation import relu_sq
from quack.epilogue.frontend import gemm_epilogue
from quack.epilogue.ops import ColVecLoad, Scalar

_PER_ROW = {"row_scale": ColVecLoad("row_scale")}


@gemm_epilogue()
def squared_relu(acc):
    """Squared ReLU of the product."""
    return {"D": relu_sq(acc)}


@gemm_epilogue(outputs=("hidden8",), ops={"alpha": Scalar("alpha"), "hidden_scale": Scalar("hidden_scale")})
def squared_relu_fp8(acc, alpha, hidden_scale):
    """Squared ReLU of the restored product, and the same scaled for 8 bits."""
    hidden = relu_sq(acc * alpha)
    return {"D": hidden, "hidden8": hidden * hidden_scale}


@gemm_epilogue()
def squared_relu_backward(acc, c):
    """The gradient before squared ReLU from that after it (acc) and its result (c): its slope is twice c's root."""
    return {"D": acc * (cute.math.sqrt(c, fastmath=True) * 2.0)}


@gemm_epilogue(ops=_PER_ROW)
def squared_relu_backward_scaled(acc, c, row_scale):
    """The same of a product whose rows are scaled."""
    return {"D": acc * row_scale * (cute.math.sqrt(c, fastmath=True) * 2.0)}


@gemm_epilogue(ops=_PER_ROW)
def scaled_rows(acc, row_scale):
    """A product whose rows are scaled."""
    return {"D": acc * row_scale}
