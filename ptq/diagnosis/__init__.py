"""Why a quantized model loses what it loses: the tensor, the cause and the remedy, from evidence."""
