"""The phantom set: brain slices drawn from geometry, so that every stage runs where no patient data are."""
