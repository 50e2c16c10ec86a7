"""The operators: schema, shape function, autograd and choice of backend, one file each."""
