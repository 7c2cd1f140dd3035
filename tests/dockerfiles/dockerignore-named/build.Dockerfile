FROM localhost/box:1
COPY . /ctx
