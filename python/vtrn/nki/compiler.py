"""nki.compiler: what nki.jit takes for a kernel. Source: API pages of nki.compiler, NKI 0.7.

The virtual chip places every tile itself, keeps every dependence, and checks barriers and capacity always: and what
does not fit in SBUF goes to HBM unless nki_alloc_fallback is off: of the options that one and the conflicts between kernels count,
the others change nothing here."""

import dataclasses
import enum
import warnings


class AddressRotation(enum.Enum):
    AUTO = "auto"
    ENABLE = "enable"
    DISABLE = "disable"


@dataclasses.dataclass(frozen=True)
class CompileConfig:
    address_rotation: AddressRotation = AddressRotation.AUTO
    non_ssa_legalization: bool = False
    dead_code_elim: bool = False
    barrier_check: bool = False
    prefetch_auto: bool = False
    nki_alloc_fallback: bool = True

    def __post_init__(self):
        if not isinstance(self.address_rotation, AddressRotation):
            raise TypeError(f"CompileConfig: address_rotation={self.address_rotation!r}; it is an AddressRotation")
        for field in dataclasses.fields(self)[1:]:
            if not isinstance(getattr(self, field.name), bool):
                raise TypeError(f"CompileConfig: {field.name}={getattr(self, field.name)!r}; it is True or False")


@dataclasses.dataclass(frozen=True)
class SpecializationConfig:
    allow_nested_config_override: bool = False


@dataclasses.dataclass(frozen=True)
class Configs:
    """Both, of one kernel; None where its decorator says nothing."""

    compile_config: object = None
    specialization_config: object = None

    def __post_init__(self):
        for value, kind in ((self.compile_config, CompileConfig), (self.specialization_config, SpecializationConfig)):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"nki.jit: {value!r}; it is a nki.compiler.{kind.__name__}")

    @property
    def refuses_spills(self):
        """Whether tiles that do not fit are an error. Without the fallback to the graph compiler's allocator NKI's own one, which
        does not spill, has the last word."""
        return self.compile_config is not None and not self.compile_config.nki_alloc_fallback

    def check_nested(self, name, inner, inner_name):
        """A kernel becomes part of another: where both say something, they say the same."""
        mine, theirs = self.compile_config or CompileConfig(), inner.compile_config
        if theirs is None or theirs == mine:
            return
        differing = ", ".join(f"{f.name}={getattr(theirs, f.name)} in {getattr(mine, f.name)}" for f in dataclasses.fields(mine)
                              if getattr(theirs, f.name) != getattr(mine, f.name))
        text = f"nki.jit: {inner_name} is part of {name} and has another compile_config: {differing}"
        if not (self.specialization_config or SpecializationConfig()).allow_nested_config_override:
            raise ValueError(f"{text}; give both the same, or {name} "
                             "specialization_config=SpecializationConfig(allow_nested_config_override=True)")
        warnings.warn(f"{text}; {name}'s is taken", stacklevel=4)
