/* Comparators and reducers on a few scalars, evaluated to find out what they compute. */
#ifndef VTRN_COMPILER_LOWER_SCALAR_REGION_H
#define VTRN_COMPILER_LOWER_SCALAR_REGION_H

#include "compiler/lower/lower.h"

/* Results of a region of comparisons, selections and logic for the given arguments; false when it
 * has anything else, or reads from outside what is no constant. A double holds every value exactly,
 * -0 and NaN included. results[region->n_results]. */
bool scalar_region_eval(const lower *l, const graph_region *region, const double *args,
                        double *results);

#endif
