/* The function table, and stubs that name themselves. */
#include "pjrt/pjrt_extensions.h"
#include "pjrt/plugin.h"

#define SLOT(name)
#define SLOT_VOID(name)
#define STUB(name)                                                                                 \
    static PJRT_Error *stub_##name(name##_Args *args) {                                            \
        (void)args;                                                                                \
        return plugin_unimplemented(#name);                                                        \
    }
#include "pjrt/pjrt_slots.def"
#undef SLOT
#undef SLOT_VOID
#undef STUB

static const PJRT_Api api = {
    .struct_size = sizeof(PJRT_Api),
    .extension_start = &plugin_profiler_extension.base,
    .pjrt_api_version = {.struct_size = sizeof(PJRT_Api_Version),
                         .major_version = PJRT_API_MAJOR,
                         .minor_version = PJRT_API_MINOR},
#define SLOT(name) .name = name,
#define SLOT_VOID  SLOT
#define STUB(name) .name = stub_##name,
#include "pjrt/pjrt_slots.def"
#undef SLOT
#undef SLOT_VOID
#undef STUB
};

VTRN_API const PJRT_Api *GetPjrtApi(void);

const PJRT_Api *GetPjrtApi(void) {
    return &api;
}
