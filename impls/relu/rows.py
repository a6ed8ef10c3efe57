"""The rows of ReLU: what each function in this folder is, in the order of the files."""

from dataclasses import replace

from impls.declare import Framework, on_cuda
from impls.variant import C_COMPILER, CPP_COMPILER, DTYPES, Operator, Semantics, Size, Traffic

OPERATORS = (
    Operator(
        "relu",
        reference="impls.relu.reference",
        # The gradient passes where the saved value is > 0, whichever is saved.
        gradients={"input": "backward", "output": "backward", "bool": "backward", "bits": "backward"},
    ),
)

# NumPy without a fused loop writes a boolean temporary and reads it again.
MASK = Size(element_bytes=1)
MASK_TRAFFIC = Traffic(mask_reads=1, mask_writes=1)
SCRATCH = Size(scratch=True)
BLOCKED = "blocked inf gives NaN"

EXACT = Semantics()
MULTIPLY = Semantics(blocked_infinity="nan")
MAXIMUM = Semantics(keeps_minus_zero=("float16",))
CLIP = Semantics(keeps_minus_zero=DTYPES)
PAIR = Semantics(keeps_minus_zero=("float16",), blocked_infinity="nan")

# NumPy ------------------------------------------------------------------------------------------------------------
NUMPY = Framework(
    "relu", "numpy", "impls.relu.numpy_", notes="one thread", dtypes=("float16", "float32", "float64"), threaded=False
)
PLAIN = NUMPY.flavour("numpy")
WHERE = NUMPY.flavour("numpy-where")
PRODUCT = NUMPY.flavour("numpy-multiply")
CLIPPED = NUMPY.flavour("numpy-clip")
BOOL = NUMPY.flavour("numpy-bool")
BITS = NUMPY.flavour("numpy-bits")
POOL = NUMPY.flavour("numpy-threads", notes="", threaded=True)

NUMPY_ROWS = (
    *PLAIN.forward("one ufunc", fresh="forward", out="forward_out", inplace="forward_inplace", semantics=MAXIMUM),
    *WHERE.forward(
        "drops NaN",
        fresh="forward_where",
        temporary=MASK,
        extra_traffic=Traffic(reads=1) + MASK_TRAFFIC,
        semantics=Semantics(nan="0"),
    ),
    *PRODUCT.forward(
        "-inf gives NaN",
        fresh="forward_multiply",
        temporary=MASK + SCRATCH,
        extra_traffic=Traffic(reads=1) + MASK_TRAFFIC,
        semantics=Semantics(minus_infinity="nan", blocked_infinity="nan", keeps_minus_zero=DTYPES),
    ),
    *CLIPPED.forward("clip to [0, inf]", out="forward_clip_out", inplace="forward_clip_inplace", semantics=CLIP),
    *POOL.forward(
        "clip; a slice a core, in a thread pool",
        out="forward_threads_out",
        inplace="forward_threads_inplace",
        temporary=SCRATCH,
        semantics=CLIP,
    ),
    *PLAIN.backward(
        "input",
        f"grad * (x > 0); {BLOCKED}",
        fresh="backward",
        temporary=MASK + SCRATCH,
        extra_traffic=MASK_TRAFFIC,
        semantics=MULTIPLY,
    ),
    *WHERE.backward("output", "np.where", fresh="backward_where", temporary=MASK, extra_traffic=MASK_TRAFFIC),
    *PLAIN.backward(
        "output",
        f"two passes, no mask; {BLOCKED}",
        out="backward_out",
        temporary=SCRATCH,
        extra_traffic=Traffic(reads=1, writes=1),
        semantics=MULTIPLY,
    ),
    *PLAIN.backward(
        "output",
        f"allocates a mask; {BLOCKED}",
        inplace="backward_inplace",
        temporary=MASK + SCRATCH,
        extra_traffic=MASK_TRAFFIC,
        semantics=MULTIPLY,
    ),
    *BOOL.backward(
        "bool",
        f"one ufunc; {BLOCKED}",
        out="backward_bool_out",
        inplace="backward_bool_inplace",
        temporary=SCRATCH,
        semantics=MULTIPLY,
    ),
    *BITS.backward(
        "bits",
        f"unpacks to a mask; {BLOCKED}",
        fresh="backward_bits",
        temporary=MASK + SCRATCH,
        extra_traffic=MASK_TRAFFIC,
        semantics=MULTIPLY,
    ),
    *POOL.backward(
        "output",
        f"blocks in cache, in a thread pool; {BLOCKED}",
        out="backward_threads_out",
        inplace="backward_threads_inplace",
        temporary=SCRATCH,
        semantics=MULTIPLY,
    ),
    *PLAIN.roundtrip(
        "output",
        f"hand-written pair; {BLOCKED}",
        fresh="roundtrip",
        inplace="roundtrip_inplace",
        temporary=MASK + SCRATCH,
        extra_traffic=MASK_TRAFFIC,
        semantics=PAIR,
    ),
    *BOOL.roundtrip(
        "bool",
        f"hand-written pair; {BLOCKED}",
        inplace="roundtrip_bool_inplace",
        temporary=SCRATCH,
        extra_traffic=Traffic(reads=1),
        semantics=PAIR,
    ),
    *BITS.roundtrip(
        "bits",
        f"hand-written pair; packs and unpacks; {BLOCKED}",
        fresh="roundtrip_bits",
        temporary=MASK + SCRATCH,
        extra_traffic=Traffic(reads=1) + MASK_TRAFFIC + MASK_TRAFFIC,
        semantics=PAIR,
    ),
)

# Numba ------------------------------------------------------------------------------------------------------------
NUMBA = Framework(
    "relu", "numba", "impls.relu.numba_cpu", notes="all threads", dtypes=("float32", "float64"), compiled=True
)
LOOP = NUMBA.flavour("numba", "one thread", threaded=False)
THREADS = NUMBA.flavour("numba-threads")
THREADS_BOOL = NUMBA.flavour("numba-threads-bool")
THREADS_BITS = NUMBA.flavour("numba-threads-bits")
HUGE_PAGES = NUMBA.flavour("numba-threads-hugepages")
STREAMING = replace(NUMBA, module="impls.relu.numba_streaming")
NONTEMPORAL = STREAMING.flavour("numba-threads-nt")
NONTEMPORAL_BITS = STREAMING.flavour("numba-threads-bits-nt")
ARENA = STREAMING.flavour("numba-threads-nt-arena")
PAST_CACHE = "non-temporal stores for large results; no fast-math"

NUMBA_ROWS = (
    *LOOP.forward("no fast-math", fresh="forward", out="forward_out", inplace="forward_inplace"),
    *THREADS.forward(
        "no fast-math", fresh="forward_threads", out="forward_threads_out", inplace="forward_threads_inplace"
    ),
    *LOOP.backward("output", "no fast-math", fresh="backward", out="backward_out", inplace="backward_inplace"),
    *THREADS.backward(
        "output",
        "no fast-math",
        fresh="backward_threads",
        out="backward_threads_out",
        inplace="backward_threads_inplace",
    ),
    *THREADS_BOOL.backward("bool", "no fast-math", inplace="backward_bool_threads_inplace"),
    *THREADS_BITS.backward(
        "bits", "no fast-math", out="backward_bits_threads_out", inplace="backward_bits_threads_inplace"
    ),
    *THREADS.roundtrip("output", "hand-written pair", fresh="roundtrip_threads", inplace="roundtrip_threads_inplace"),
    *THREADS_BITS.roundtrip("bits", "hand-written pair", inplace="roundtrip_bits_threads_inplace"),
    *HUGE_PAGES.forward("allocates with NumPy, which asks for huge pages", fresh="forward_threads_hugepages"),
    *NONTEMPORAL.forward(PAST_CACHE, out="forward_out", nontemporal=True),
    *NONTEMPORAL.backward("output", PAST_CACHE, out="backward_out", nontemporal=True),
    *NONTEMPORAL_BITS.backward("bits", PAST_CACHE, out="backward_bits_out", nontemporal=True),
    *ARENA.forward(f"{PAST_CACHE}; keeps the memory of a freed result", fresh="forward_arena", nontemporal=True),
)

# PyTorch ----------------------------------------------------------------------------------------------------------
TORCH = Framework(
    "relu",
    "torch",
    "impls.relu.torch_",
    notes="eager",
    semantics=Semantics(gradient_at_nan="grad", keeps_minus_zero=DTYPES),
)
EAGER = TORCH.flavour("torch")
EAGER_BOOL = TORCH.flavour("torch-bool")
AUTOGRAD = TORCH.flavour("torch-autograd")
COMPILE = TORCH.flavour("torch-compile", "inductor", compiled=True, needs=CPP_COMPILER)

TORCH_ROWS = (
    *EAGER.forward("no graph", fresh="forward", out="forward_out", inplace="forward_inplace"),
    *COMPILE.forward("no graph", fresh="forward_compiled"),
    *EAGER.backward(
        "output", "raw threshold_backward", fresh="backward", out="backward_out", inplace="backward_inplace"
    ),
    *EAGER_BOOL.backward(
        "bool",
        "where",
        fresh="backward_bool",
        out="backward_bool_out",
        inplace="backward_bool_inplace",
        temporary=SCRATCH,
    ),
    *AUTOGRAD.roundtrip("output", "autograd records and replays", fresh="roundtrip_autograd", autograd=True),
    *EAGER.roundtrip("output", "raw operators, no autograd", inplace="roundtrip_inplace"),
    *COMPILE.roundtrip("bool", "autograd records and replays; keeps a mask", fresh="roundtrip_compiled", autograd=True),
)

# JAX --------------------------------------------------------------------------------------------------------------
JAX = Framework(
    "relu",
    "jax",
    "impls.relu.jax_",
    notes="jit",
    compiled=True,
    semantics=Semantics(flushes_subnormals=("bfloat16", "float32", "float64")),
)
JIT = JAX.flavour("jax")
JIT_BOOL = JAX.flavour("jax-bool")
JIT_BITS = JAX.flavour("jax-bits")
HALVES = JAX.flavour("jax", "jit, one program a half")
VJP = JAX.flavour("jax-vjp", "jit, one program a half")

JAX_ROWS = (
    *JIT.forward(fresh="forward"),
    *JIT.forward("argument donated", inplace="forward_inplace"),
    *JIT.backward("output", fresh="backward"),
    *JIT.backward("output", "grad donated", inplace="backward_inplace"),
    # A selection by a mask compares no floats, so XLA flushes none.
    *JIT_BOOL.backward("bool", fresh="backward_bool", semantics=EXACT),
    *JIT_BITS.backward("bits", "unpacking fused", fresh="backward_bits", semantics=EXACT),
    *VJP.roundtrip(
        "bool",
        "keeps a mask and an array of zeros",
        fresh="roundtrip_vjp",
        temporary=Size(arrays=1),
        extra_traffic=Traffic(reads=1, writes=1, write_allocate=1),
        extra_saved=Size(arrays=1),
        autograd=True,
    ),
    *HALVES.roundtrip("output", "both arguments donated", inplace="roundtrip_inplace"),
)

# Numba on CUDA: no allocator of its own, so nothing fresh ---------------------------------------------------------
NUMBA_CUDA = Framework(
    "relu",
    "numba_cuda",
    "impls.relu.numba_cuda",
    device="cuda",
    threaded=False,
    compiled=True,
)
KERNEL = NUMBA_CUDA.flavour("numba-cuda")
KERNEL_BITS = NUMBA_CUDA.flavour("numba-cuda-bits")
WIDE = "16 bytes an access; no fast-math"

NUMBA_CUDA_ROWS = (
    *KERNEL.forward(WIDE, out="forward_out", inplace="forward_inplace"),
    *KERNEL.backward("output", WIDE, out="backward_out", inplace="backward_inplace"),
    *KERNEL_BITS.backward("bits", WIDE, out="backward_bits_out", inplace="backward_bits_inplace"),
    *KERNEL.roundtrip("output", "hand-written pair", inplace="roundtrip_inplace"),
    *KERNEL_BITS.roundtrip(
        "bits", "hand-written pair; allocates its bits by cudaMalloc", inplace="roundtrip_bits_inplace"
    ),
)

# Triton -----------------------------------------------------------------------------------------------------------
TRITON = Framework("relu", "triton", "impls.relu.triton_", device="cuda", threaded=False, compiled=True)
TUNED = TRITON.flavour("triton-cuda", needs=C_COMPILER)
TUNED_BITS = TRITON.flavour("triton-cuda-bits", needs=C_COMPILER)
BLOCKS = "block size tuned"

TRITON_ROWS = (
    *TUNED.forward(BLOCKS, fresh="forward", out="forward_out", inplace="forward_inplace"),
    *TUNED.backward("output", BLOCKS, fresh="backward", out="backward_out", inplace="backward_inplace"),
    *TUNED_BITS.backward("bits", BLOCKS, out="backward_bits_out", inplace="backward_bits_inplace"),
    *TUNED.roundtrip("output", "hand-written pair", inplace="roundtrip_inplace"),
    *TUNED_BITS.roundtrip("bits", "hand-written pair", inplace="roundtrip_bits_inplace"),
)

ROWS = (
    *NUMPY_ROWS,
    *NUMBA_ROWS,
    *TORCH_ROWS,
    *JAX_ROWS,
    *on_cuda(TORCH_ROWS),
    *on_cuda(JAX_ROWS),
    *NUMBA_CUDA_ROWS,
    *TRITON_ROWS,
)
