"""The pure functions of the parts that adapt a frozen CLIP, one file per part."""
