"""The plugins that come with this package, through the same door as everybody else's."""
