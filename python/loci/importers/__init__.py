"""Trained weights of other libraries under the names of Loci, and back (`python -m loci.weights`)."""
