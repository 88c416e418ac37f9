/* Operands of concatenations, which their makers write where they belong. */
#ifndef VTRN_COMPILER_LOWER_PARTS_H
#define VTRN_COMPILER_LOWER_PARTS_H

#include "compiler/lower/lower.h"

/* The place of v when it becomes a part of another tensor, perhaps behind changes of its view:
 * *out, in the linear order of v, in memory that is reserved for that tensor. */
vtrn_status parts_find(lower *l, graph_value v, view *out, bool *is_found);

/* lower_result() for makers that can write any view: there, or in memory that is reserved for v;
 * else dense. */
vtrn_status parts_result(lower *l, graph_value v, view *out);

/* Memory of a tensor of parts, narrowed where all readers narrow it. */
vtrn_status parts_whole(lower *l, graph_value v, view *out);

/* Whether some parts of the tensor are not written yet. */
bool parts_are_missing(const lower *l, uint32_t slot);

/* Whether a value is at the place of its part already. */
bool parts_is_there(const view *from, const view *part);

#endif
