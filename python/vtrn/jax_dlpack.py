"""Arrays of the device for other libraries: DLPack has no device type for it, so they get a copy on
the host, as from an array of JAX's CPU."""


def register() -> None:
    """JAX gives DLPack tensors of the platforms that it knows only."""
    from jax._src import array, dlpack, xla_bridge
    from jax._src.dlpack import DLDeviceType

    jaxs_device, jaxs_tensor = array.ArrayImpl.__dlpack_device__, dlpack.to_dlpack
    host = (DLDeviceType.kDLCPU, 0)

    def is_ours(x):
        return isinstance(x, array.ArrayImpl) and {d.platform for d in x.devices()} == {"neuron"}

    def dlpack_device(self):
        return host if is_ours(self) and len(self.devices()) == 1 else jaxs_device(self)

    def to_dlpack(x, stream=None, src_device=None, dl_device=None, max_version=None, copy=None):
        if is_ours(x):
            if copy is False:
                raise BufferError("an array of a NeuronCore is copied to the host; copy=False forbids it")
            # The host array is a copy: no other array shares its memory.
            cpu = xla_bridge.local_devices(backend="cpu")[0]
            x, src_device, stream, copy = dlpack.device_put(x, cpu), cpu, None, None
        return jaxs_tensor(x, stream=stream, src_device=src_device, dl_device=dl_device,
                           max_version=max_version, copy=copy)  # fmt: skip

    array.ArrayImpl.__dlpack_device__ = dlpack_device
    dlpack.to_dlpack = to_dlpack
