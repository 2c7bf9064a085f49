"""From run folders on disk to numbers, tables and figures that can be defended."""
