/* Packed integers into floats. The bits of one place in all bytes are moved to the top of theirs,
 * words at a time: the byte is then the number times a power of 2, sign included. */
#include "compiler/emit/emit_unpack.h"

/* The widest unsigned type of which the bytes of a row are a whole number. */
static vtrn_dtype word_type(const unpacking *u, uint32_t n_bytes) {
    const uint32_t at = u->packed.addr | u->spare.addr | n_bytes;
    return at % 4 == 0 ? VTRN_DTYPE_UINT32 : at % 2 == 0 ? VTRN_DTYPE_UINT16 : VTRN_DTYPE_UINT8;
}

static vtrn_ap words_of(const tile *bytes, vtrn_dtype word, uint32_t rows, uint32_t n_bytes) {
    tile t = *bytes;
    t.dtype = (uint8_t)word;
    return tile_ap(&t, rows, n_bytes / (uint32_t)dtype_size(word));
}

vtrn_status emit_unpack(emitter *e, const unpacking *u) {
    const int bits = dtype_bits(u->dtype), per = dtype_per_byte(u->dtype);
    const uint32_t n_bytes = u->cols / (uint32_t)per;
    const vtrn_dtype word = word_type(u, n_bytes);
    const vtrn_dtype byte = dtype_is_signed_int(u->dtype) ? VTRN_DTYPE_INT8 : VTRN_DTYPE_UINT8;
    const uint32_t ones = 0x01010101u >> (32 - 8 * dtype_size(word));
    const uint32_t mask = ones * ((0xff00u >> bits) & 0xff); /* the highest bits of each byte */
    const vtrn_ap packed = words_of(&u->packed, word, u->rows, n_bytes);
    for (int place = per - 1; place >= 0; place--) { /* the last one where the bytes were */
        tile to = place ? u->spare : u->packed;
        const int up = 8 - bits - place * bits;
        const vtrn_ap field = words_of(&to, word, u->rows, n_bytes);
        const step_op cut = STEP_BITS(BITWISE_AND, mask);
        VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, &field, &packed,
                                          up ? STEP_BITS(SHIFT_LEFT, (uint32_t)up) : cut,
                                          up ? cut : STEP_NONE));
        to.dtype = (uint8_t)byte;
        const vtrn_ap bytes = tile_ap(&to, u->rows, n_bytes);
        vtrn_ap dst = tile_ap_cols(&u->dst, u->rows, (uint32_t)place, n_bytes);
        dst.dim[0].step = per;
        VTRN_RETURN_IF_ERROR(emit_scaled(e, &dst, &bytes, 1.0f / (float)(1u << (8 - bits)), NULL));
    }
    return NULL;
}
