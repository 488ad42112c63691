// Holds the precompiled header of torch/torch.h that every target with torch reuses.
