"""One machine, many hospitals: cut a cohort into sites and run the same server and client code over them."""
