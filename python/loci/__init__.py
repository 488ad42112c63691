"""Reports on Loci's runs: `python -m loci.report RUN...`."""
