/* Elementwise instructions a block of rows at a time. */
#ifndef VTRN_ENGINE_LANES_ROWS_H
#define VTRN_ENGINE_LANES_ROWS_H

#include "engine/lanes.h"

/* The instruction has a function for blocks, its rows are dense and at most OPERAND_CHUNK elements
 * long, and they depend on nothing that other rows write. */
bool lanes_rows_fit(const lanes *l, const lanes_spec *spec);

/* Does rows [first, end). */
void lanes_run_rows(lanes *l, const lanes_spec *spec, int first, int end);

#endif
