"""The sections of the page, in its order: one file each, with a template of the same name."""
