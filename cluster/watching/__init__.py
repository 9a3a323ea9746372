"""Looking at a store from outside: what is in it, what can go, dashboards."""
