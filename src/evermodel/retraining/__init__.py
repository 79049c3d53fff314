"""When a model is trained again, on what, and by whom: policy, leases, launch, replay."""
