"""Reports on Loci's runs (`python -m loci.report RUN...`) and weights of other libraries (`python -m loci.weights`)."""
