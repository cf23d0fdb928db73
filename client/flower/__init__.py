"""All code of the site that uses Flower's private names: the stock SuperNode and its tasks."""
