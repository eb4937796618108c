"""From a config to objects. The one package where a name becomes an object."""
