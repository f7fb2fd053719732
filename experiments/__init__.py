"""Studies; what each found lies beside its code."""
