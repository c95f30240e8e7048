"""What a frozen encoder makes of the images of a stage: computed once, kept in files, read instead of images."""
