"""How trials become training; one file a method, readable beside its paper."""
