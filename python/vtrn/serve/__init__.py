"""Serving of pretrained networks on a virtual chip: `vtrn serve`, `vtrn serve-replay`, `vtrn bench`. docs/serving.md."""
