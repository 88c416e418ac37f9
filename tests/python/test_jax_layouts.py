"""Memory layouts: which dimension of an array is next to which in HBM."""

import ctypes
import itertools

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax.experimental.layout import Format, Layout  # noqa: E402


def format_of(order):
    return Format(Layout(major_to_minor=order), jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def order_of(array):
    return array.format.layout.major_to_minor


def memory_of(array):
    return ctypes.string_at(array.unsafe_buffer_pointer(), array.nbytes)


def values(shape, dtype="float32"):
    return np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "complex64"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 33), (129, 7), (0, 3)])
def test_an_array_is_in_memory_as_it_was_asked_for(shape, dtype):
    x = values(shape, jnp.dtype(dtype))
    for order in ((0, 1), (1, 0)):
        a = jax.device_put(x, format_of(order))
        assert order_of(a) == order
        assert memory_of(a) == x.transpose(order).tobytes()
        assert np.asarray(a).tobytes() == x.tobytes()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_programs_take_and_give_any_order(order):
    x = values((3, 5, 33))
    a = jax.device_put(x, format_of(order))
    np.testing.assert_array_equal(jax.jit(lambda v: v * 2)(a), x * 2)  # compiled for what it gets
    reverse = order[::-1]
    f = jax.jit(lambda v: (v + 1, v.sum(0)), in_shardings=format_of(order),
                out_shardings=(format_of(reverse), format_of((1, 0))))
    r, s = f(a)
    assert order_of(r) == reverse and order_of(s) == (1, 0)
    assert memory_of(r) == (x + 1).transpose(reverse).tobytes()
    assert memory_of(s) == x.sum(0).T.tobytes()
    np.testing.assert_array_equal(r, x + 1)


def test_host_arrays_of_any_strides_are_copied_into_any_order():
    x = values((6, 10, 4))
    for source in (x[::2], x[:, ::-1], x.transpose(2, 0, 1), np.broadcast_to(x[:1], (6, 10, 4))):
        for order in itertools.permutations(range(3)):
            a = jax.device_put(source, format_of(order))
            assert memory_of(a) == np.ascontiguousarray(source.transpose(order)).tobytes()
            np.testing.assert_array_equal(np.asarray(a), source)


def test_donated_memory_of_one_order_becomes_an_output_of_the_same():
    x = values((4, 130))
    f = jax.jit(lambda v: v * 3, in_shardings=format_of((1, 0)), out_shardings=format_of((1, 0)),
                donate_argnums=0)
    a = jax.device_put(x, format_of((1, 0)))
    before = a.unsafe_buffer_pointer()
    r = f(a)
    assert a.is_deleted() and r.unsafe_buffer_pointer() == before
    np.testing.assert_array_equal(r, x * 3)


def test_donated_memory_of_another_order_is_given_up():
    x = values((4, 130))
    f = jax.jit(lambda v: v * 3, in_shardings=format_of((1, 0)), out_shardings=format_of((0, 1)),
                donate_argnums=0)
    a = jax.device_put(x, format_of((1, 0)))
    r = f(a)
    assert a.is_deleted() and order_of(r) == (0, 1)
    np.testing.assert_array_equal(r, x * 3)


def test_the_order_survives_copies_and_is_part_of_what_a_compiled_program_takes():
    x = values((4, 6))
    a = jax.device_put(x, format_of((1, 0)))
    assert order_of(a.copy()) in ((0, 1), (1, 0))
    np.testing.assert_array_equal(a.copy(), x)
    compiled = jax.jit(lambda v: v, in_shardings=format_of((1, 0))).lower(
        jax.ShapeDtypeStruct((4, 6), np.float32)).compile()
    assert compiled.input_formats[0][0].layout.major_to_minor == (1, 0)
    np.testing.assert_array_equal(compiled(a), x)
    with pytest.raises(ValueError, match="layout"):
        compiled(jax.device_put(x, format_of((0, 1))))


def test_left_to_the_compiler_it_is_row_major():
    compiled = jax.jit(lambda v: v.T, in_shardings=Format(Layout.AUTO)).lower(
        jax.ShapeDtypeStruct((2, 3), np.float32)).compile()
    assert compiled.input_formats[0][0].layout.major_to_minor == (0, 1)
    assert compiled.output_formats.layout.major_to_minor == (0, 1)


def test_tiles_are_refused_by_name():
    with pytest.raises(Exception, match="tile"):
        jax.jit(lambda v: v + 1, in_shardings=Format(
            Layout(major_to_minor=(0, 1), tiling=((8, 128),)),
            jax.sharding.SingleDeviceSharding(jax.devices()[0]))).lower(
                jax.ShapeDtypeStruct((16, 256), np.float32)).compile()
