"""Features of slides: folders of patch files in the layouts of their programs, and tables of slide vectors."""
