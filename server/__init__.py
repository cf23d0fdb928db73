"""The coordinating site.

One round loop (`rounds`) over a Flower Grid, with the agreement before it (`settle`), a
check of every answer (`gate`), Flower's strategies (`strategy`) and a journal that a run can be resumed from
(`journal`).
"""
