"""What each version of NKI has: names, keywords and rules. Source: NKI's release notes and migration pages, and what
the API pages of a version list; a name that is not here is in all of them."""

import functools
import types

VERSIONS = ("0.2", "0.3", "0.4", "0.5", "0.6", "0.7")
NEWEST = VERSIONS[-1]


def number(version):
    """Its place among VERSIONS."""
    try:
        return VERSIONS.index(str(version))
    except ValueError:
        raise ValueError(f"NKI {version}: one of {', '.join(VERSIONS)}") from None


class Row:
    """A name of a module, or a keyword of a function: in versions first to last (None: to the newest)."""

    def __init__(self, module, name, first, last, remedy, keyword=None, deprecated=None):
        self.module, self.name, self.keyword, self.remedy = module, name, keyword, remedy
        self.first, self.last, self.deprecated = first, last, deprecated

    def is_in(self, version):
        n = number(version)
        return n >= number(self.first) and (self.last is None or n <= number(self.last))

    def is_deprecated(self, version):
        return self.deprecated is not None and number(version) >= number(self.deprecated)

    def text(self, version):
        what = f"{self.module}.{self.name}" + (f"({self.keyword}=)" if self.keyword else "")
        if not self.is_in(version):
            since = f"came with {self.first}" if number(version) < number(self.first) else f"ended with {self.last}"
            return f"{what} is not in NKI {version}: it {since}; {self.remedy}"
        return f"{what} is deprecated from NKI {self.deprecated} on; {self.remedy}"


NL, NISA, NKI = "nki.language", "nki.isa", "nki"
ROWS = (
    Row(NL, "load", "0.3", None, "use nisa.dma_copy"),
    Row(NL, "store", "0.3", None, "use nisa.dma_copy"),
    Row(NL, "dynamic_range", "0.2", "0.6", "use nl.fori_loop"),
    Row(NL, "fori_loop", "0.6", None, "use nl.dynamic_range"),
    Row(NL, "while_loop", "0.6", None, "use `while register:`"),
    Row(NL, "no_reorder", "0.3", None, "leave it out"),
    Row(NL, "int64", "0.7", None, "use nl.int32"),
    Row(NL, "tiles", "0.7", None, "slice the tensor"),
    Row(NL, "blocks", "0.7", None, "slice the tensor"),
    Row(NL, "alloc_tiles", "0.7", None, "use a list of nl.ndarray"),
    Row(NL, "alloc_blocks", "0.7", None, "use a list of nl.ndarray"),
    *(Row(NL, name, "0.2", None, "use range", deprecated="0.7")
      for name in ("affine_range", "sequential_range", "static_range")),
    *(Row(NL, name, "0.2", "0.5", remedy) for name, remedy in (
        ("par_dim", "the first dimension of a tile counts partitions"), ("nc", "launch with the number of cores"),
        ("spmd_dim", "launch with the number of cores"), ("arange", "use slices, nl.ds or .ap()"),
        ("mgrid", "use slices, nl.ds or .ap()"), ("range", "use Python's range"), ("cast", "copy to a tile of the type"))),
    *(Row(NISA, f"tensor_copy_dynamic_{end}", "0.2", "0.3", "use nisa.tensor_copy with .ap(scalar_offset=)") for end in ("src", "dst")),
    Row(NISA, "topk", "0.6", None, "use nisa.max8 and nisa.nc_match_replace8"),
    Row(NISA, "scalar_load", "0.7", None, "use nisa.register_load"),
    Row(NISA, "scalar_store", "0.7", None, "use nisa.register_store"),
    Row(NISA, "NkiScalar", "0.7", None, "use a register"),
    Row(NISA, "constants", "0.2", "0.5", "use the names of nki.isa itself"),
    Row(NISA, "dma_copy", "0.2", "0.2", "use nisa.dma_compute", keyword="dst_rmw_op"),
    Row(NISA, "dma_copy", "0.2", "0.2", "use nisa.dma_compute", keyword="unique_indices"),
    Row(NISA, "dma_compute", "0.3", None, "use nisa.dma_copy(dst_rmw_op=)"),
    *(Row(NISA, name, "0.2", "0.2", "the type is dst's", keyword="dtype")
      for name in ("tensor_copy", "tensor_tensor", "tensor_scalar", "scalar_tensor_tensor", "activation")),
    Row(NISA, "nc_matmul", "0.3", None, "earlier versions add without being asked", keyword="accumulate"),
    Row(NISA, "sendrecv", "0.2", "0.5", "use dma_engine=nisa.dma_engine.gpsimd_dma", keyword="use_gpsimd_dma"),
    Row(NISA, "register_move", "0.2", "0.2", "use src=", keyword="imm"),
    Row(NISA, "tensor_scalar_reduce", "0.7", None, "negate it with another instruction", keyword="reduce_res_negate"),
    *(Row(NISA, name, "0.7", None, "it runs on the Scalar engine", keyword="engine")
      for name in ("activation", "activate2")),
    Row(NKI, "simulate", "0.3", None, "run it on a device"),
    *(Row(NKI, "jit", "0.2", None, "leave it out", keyword=key, deprecated="0.3")
      for key in ("mode", "platform_target")),
    *(Row(NKI, "jit", "0.7", None, "leave it out", keyword=key) for key in ("compile_config", "specialization_config")),
)
# Of neuronxcc.nki: the names that no later generation has.
GONE = {"baremetal": "call the kernel", "benchmark": "use vtrn.nki.profile", "profile": "use vtrn.nki.profile",
        "simulate_kernel": "use nki.simulate", "trace": "use nki.jit"}
TILE_SIZE_DEPRECATED = {"psum_fmax": ("0.7", "use psum_bank_fmax")}


def _refusing(function, rows, version):
    """The function, without the keywords that the version lacks."""
    missing = {row.keyword: row for row in rows}

    @functools.wraps(function)
    def call(*args, **kwargs):
        for key in kwargs:
            if key in missing:
                raise TypeError(missing[key].text(version))
        return function(*args, **kwargs)

    return call


def module_of(version, module, name):
    """The module as that version has it."""
    made = types.ModuleType(name)
    names = dict(vars(module))
    absent = {}
    by_name = {}
    for row in ROWS:
        if row.module != name or row.is_in(version):
            continue
        if row.keyword is None:
            absent[row.name] = row
            names.pop(row.name, None)
        else:
            by_name.setdefault(row.name, []).append(row)
    for function, rows in by_name.items():
        if function in names:
            names[function] = _refusing(names[function], rows, version)
    others = names.pop("__getattr__", None)

    def missing(attribute):
        if attribute in absent:
            raise AttributeError(absent[attribute].text(version))
        if others is not None:
            return others(attribute)
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    made.__dict__.update({k: v for k, v in names.items() if not k.startswith("__") or k == "__path__"})
    made.__dict__["__getattr__"] = missing
    return made
